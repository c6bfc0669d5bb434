"""Messages that wait: on disk or in memory, and what is lost is told in terms of readers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.telemetry.backlog import Backlog, Message
from edge.telemetry.envelope import Envelope, Sealer, decode
from edge.telemetry.outbox import Bounds, DiskFiles


class Waiting:
    """A backlog of numbered messages."""

    def __init__(self, folder: Path | None = None, **bounds: Any) -> None:
        self.sealer = Sealer()
        self.backlog = Backlog(self._seal_gap, folder, Bounds(fresh_s=0.0, **bounds))
        self.backlog.start()

    def put(self, text: str = "", *, is_event: bool = False) -> int:
        envelope = self.sealer.seal({"text": text})
        self.backlog.put("t", envelope, is_event=is_event)
        return envelope.seq

    def _seal_gap(self, metrics: dict[str, Any]) -> tuple[str, Envelope]:
        return "gap", self.sealer.seal(metrics)

    def take_all(self) -> list[Message]:
        self.backlog.begin()
        messages = []
        while message := self.backlog.take():
            messages.append(message)
            self.backlog.acknowledge(message.number)
        return messages

    def close(self) -> None:
        self.backlog.close()


def _numbers(messages: list[Message]) -> list[int]:
    return [decode(message.payload).seq for message in messages if message.topic == "t"]


def _gaps(messages: list[Message]) -> list[dict[str, Any]]:
    return [
        decode(message.payload).metrics()["gap"] for message in messages if message.topic == "gap"
    ]


def test_what_waited_for_a_connection_is_marked_as_history() -> None:
    waiting = Waiting()
    waiting.put()
    assert [decode(message.payload).hist for message in waiting.take_all()] == [True]
    waiting.put()
    message = waiting.backlog.take()
    assert message
    assert decode(message.payload).hist is False
    waiting.close()


def test_messages_of_an_earlier_run_come_first_under_their_own_numbers(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    numbers = [waiting.put(is_event=number % 3 == 0) for number in range(9)]
    boot = waiting.sealer.boot
    waiting.close()
    waiting = Waiting(tmp_path)
    numbers.append(waiting.put())
    messages = waiting.take_all()
    assert _numbers(messages) == numbers
    assert [decode(message.payload).boot == boot for message in messages] == [True] * 9 + [False]
    waiting.close()
    waiting = Waiting(tmp_path)
    assert waiting.take_all() == []
    waiting.close()


def test_oldest_telemetry_goes_before_any_event() -> None:
    waiting = Waiting(memory_bytes=6_000)
    event = waiting.put(is_event=True)
    telemetry = [waiting.put("x" * 100) for _ in range(30)]
    kept = _numbers(waiting.take_all())
    assert kept[0] == event
    assert kept[1:] == telemetry[-len(kept[1:]) :]
    waiting.close()


def test_what_was_dropped_is_told_next() -> None:
    waiting = Waiting(memory_bytes=3_000)
    numbers = [waiting.put("x" * 100) for _ in range(20)]
    messages = waiting.take_all()
    assert messages[0].topic == "gap"
    dropped = numbers[: -len(_numbers(messages))]
    assert _gaps(messages) == [
        {
            "from": dropped[0],
            "to": dropped[-1],
            "count": len(dropped),
            "reason": "memory",
            "boot": waiting.sealer.boot,
        }
    ]
    assert waiting.backlog.status().dropped_count == len(dropped)
    assert waiting.backlog.take() is None
    waiting.close()


def test_damage_is_told_by_the_numbers_around_it(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    boot = waiting.sealer.boot
    for _ in range(9):
        waiting.put()
    waiting.close()
    (path,) = tmp_path.glob("*.log")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    waiting = Waiting(tmp_path)
    messages = waiting.take_all()
    assert _numbers(messages) == [1, 2, 3, 4, 6, 7, 8, 9]
    (gap,) = _gaps(messages + waiting.take_all())
    assert (gap["from"], gap["to"], gap["count"]) == (5, 5, None)
    assert (gap["reason"], gap["boot"]) == ("damaged", boot)
    assert path.name in gap["detail"]
    waiting.close()


@pytest.mark.parametrize("is_taken", [True, False])
def test_folder_that_can_not_be_used_leaves_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_taken: bool
) -> None:
    folder = tmp_path / "outbox"
    files = DiskFiles(folder) if is_taken else None
    if not is_taken:
        folder.touch()
    waiting = Waiting(folder)
    number = waiting.put()
    assert _numbers(waiting.take_all()) == [number]
    assert waiting.backlog.status().is_durable is False
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "in memory only: " in record.message
    waiting.close()
    if files:
        files.release()


def test_message_of_another_version_is_sent_as_it_is(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    envelope = msgspec.structs.replace(waiting.sealer.seal({}), v=2)
    waiting.backlog.put("t", envelope, is_event=False)
    (message,) = waiting.take_all()
    assert msgspec.json.decode(message.payload)["v"] == 2
    waiting.close()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2000)), max_size=60))
def test_size_is_bounded_and_nothing_vanishes_untold(puts: list[tuple[bool, int]]) -> None:
    waiting = Waiting(memory_bytes=5_000)
    for is_event, size in puts:
        waiting.put("x" * size, is_event=is_event)
        assert waiting.backlog.status().waiting_bytes <= 5_000
    messages = waiting.take_all()
    told = sum(gap["count"] for gap in _gaps(messages))
    assert len(_numbers(messages)) + told == len(puts)
    assert waiting.backlog.status().waiting_bytes == 0
    waiting.close()

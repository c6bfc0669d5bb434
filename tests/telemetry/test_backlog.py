"""Messages that wait: in order, bounded, and what is lost is told."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge.telemetry.backlog import Backlog, Message
from edge.telemetry.envelope import Sealer


class Waiting:
    """A backlog of numbered messages."""

    def __init__(self, max_bytes: int) -> None:
        self.sealer = Sealer()
        self.backlog = Backlog(self._gap, max_bytes)

    def put(self, text: str = "", *, is_event: bool = False) -> int:
        message = Message("t", self.sealer.seal({"text": text}), is_event=is_event)
        self.backlog.put(message)
        return message.envelope.seq

    def _gap(self, metrics: dict[str, Any]) -> Message:
        return Message("gap", self.sealer.seal(metrics), is_event=True)

    def take_all(self) -> list[Message]:
        messages = []
        while message := self.backlog.take():
            messages.append(message)
        return messages


def test_messages_come_in_the_order_they_were_put() -> None:
    waiting = Waiting(10_000)
    numbers = [waiting.put(is_event=number % 3 == 0) for number in range(9)]
    assert [message.envelope.seq for message in waiting.take_all()] == numbers
    assert len(waiting.backlog) == waiting.backlog.size_bytes == 0


def test_message_that_did_not_arrive_comes_first_again() -> None:
    waiting = Waiting(10_000)
    numbers = [waiting.put(is_event=number == 1) for number in range(4)]
    taken = [message for _ in range(3) if (message := waiting.backlog.take())]
    for message in reversed(taken):
        waiting.backlog.put_back(message)
    assert [message.envelope.seq for message in waiting.take_all()] == numbers


def test_oldest_telemetry_goes_before_any_event() -> None:
    waiting = Waiting(6_000)
    event = waiting.put(is_event=True)
    telemetry = [waiting.put("x" * 100) for _ in range(30)]
    messages = waiting.take_all()
    kept = [message.envelope.seq for message in messages[1:]]
    assert kept[0] == event
    assert kept[1:] == telemetry[-len(kept[1:]) :]


def test_what_was_dropped_is_told_next() -> None:
    waiting = Waiting(3_000)
    numbers = [waiting.put("x" * 100) for _ in range(20)]
    gap, *kept = waiting.take_all()
    dropped = numbers[: -len(kept)]
    assert gap.topic == "gap"
    assert gap.envelope.metrics()["gap"] == {
        "from": dropped[0],
        "to": dropped[-1],
        "count": len(dropped),
        "reason": "memory",
    }
    assert waiting.backlog.dropped_count == len(dropped)
    assert waiting.backlog.take() is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2000)), max_size=60))
def test_size_is_bounded_and_nothing_vanishes_untold(puts: list[tuple[bool, int]]) -> None:
    waiting = Waiting(5_000)
    for is_event, size in puts:
        waiting.put("x" * size, is_event=is_event)
        assert waiting.backlog.size_bytes <= 5_000
    messages = waiting.take_all()
    kept = [message for message in messages if message.topic == "t"]
    told = sum(m.envelope.metrics()["gap"]["count"] for m in messages if m.topic == "gap")
    assert len(kept) + told == len(puts)
    assert waiting.backlog.size_bytes == 0

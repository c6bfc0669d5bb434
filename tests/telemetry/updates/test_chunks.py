"""Bundles in chunks: in any order, again, not at all, wrong, and after the process ended."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import LONG_S

from edge.core.errors import BundleError, InputError, UnavailableError
from edge.telemetry.fleet.transfer import ChunkSource, Pace
from edge.telemetry.updates import chunks
from edge.telemetry.updates.chunks import Assembly, Geometry, Inbox, Ranges, Terms
from edge.telemetry.updates.partial import Partial, Room

CONTENTS = random.Random(1).randbytes(20_500)
SHA256 = hashlib.sha256(CONTENTS).hexdigest()
GEOMETRY = Geometry(len(CONTENTS), 1024)


class Stopped(BaseException):
    pass


class Device:
    """Assembles in one thread; ``speak`` is what the operator does whenever the device tells."""

    def __init__(self, folder: Path, speak: Callable[[Inbox, dict[str, Any]], None]) -> None:
        self.told: list[dict[str, Any]] = []
        self.folder = folder
        self.speak = speak
        self.inbox = Inbox(GEOMETRY)

    def run(self, **fields: Any) -> bytes:
        terms = Terms(Room(self.folder, 10**9, 0), 0.05, self._tell, lambda: None)
        with Partial(self.folder / "updates", SHA256) as partial:
            Assembly(partial, GEOMETRY, self.inbox, terms._replace(**fields)).run()
            return partial.path.read_bytes()

    def _tell(self, share: float, told: dict[str, Any]) -> None:
        self.told.append(told)
        self.speak(self.inbox, told)


def chunk(index: int) -> bytes:
    return CONTENTS[index * 1024 : (index + 1) * 1024]


def put(inbox: Inbox, index: int, data: bytes | None = None) -> None:
    inbox.put(("chunk", str(index)), chunk(index) if data is None else data)


def missing(told: dict[str, Any]) -> list[int]:
    return [index for start, end in told["missing"] for index in range(start, end)]


@given(st.lists(st.integers(0, 40), max_size=80), st.integers(1, 45))
def test_ranges_are_a_set(numbers: list[int], count: int) -> None:
    ranges = Ranges()
    for number in numbers:
        ranges.add(number)
    assert [n for start, end in ranges for n in range(start, end)] == sorted(set(numbers))
    assert all(a[1] < b[0] for a, b in zip(list(ranges), list(ranges)[1:], strict=False))
    assert [number for number in range(60) if number in ranges] == sorted(set(numbers))
    gaps = [n for start, end in Ranges(list(ranges)).gaps(count) for n in range(start, end)]
    assert [n for n in gaps if n < count] == [n for n in range(count) if n not in set(numbers)]


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_any_order_and_any_loss_gives_the_file(chance: random.Random) -> None:
    def speak(inbox: Inbox, told: dict[str, Any]) -> None:
        some = missing(told) * 2
        chance.shuffle(some)
        for index in some[: chance.randint(1, 12)]:
            put(inbox, index)
        put(inbox, chance.randrange(GEOMETRY.count))

    with tempfile.TemporaryDirectory() as folder:
        assert Device(Path(folder), speak).run() == CONTENTS


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        (("chunk", "0"), b""),
        (("chunk", "0"), b"x" * 1023),
        (("chunk", "0"), b"x" * 1025),
        (("chunk", "20"), b"x" * 1024),  # the last one has 20 bytes
        (("chunk", "21"), b"x" * 1024),
        (("chunk", "-1"), b"x" * 1024),
        (("chunk", "٣"), b"x" * 1024),
        (("chunk", "1e1"), b"x" * 1024),
        (("chunk", "9" * 5000), b"x" * 1024),
        (("chunk", ""), b"x" * 1024),
        (("chunk",), b"x" * 1024),
        (("chunk", "0", "0"), b"x" * 1024),
        (("piece", "0"), b"x" * 1024),
    ],
)
def test_what_is_no_chunk_of_the_file_is_dropped(path: tuple[str, ...], payload: bytes) -> None:
    inbox = Inbox(GEOMETRY)
    inbox.put(path, payload)
    assert inbox.get(0.0) is None


def test_more_than_the_memory_for_it_is_dropped_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_WAITING_BYTES", 3 * 1024)
    monkeypatch.setattr(chunks, "_ROUND_S", 0.01)

    def speak(inbox: Inbox, told: dict[str, Any]) -> None:
        if told["round"] != len(rounds) - 1:
            rounds.append(len(missing(told)))
            for index in missing(told):
                put(inbox, index)

    rounds: list[int] = []
    device = Device(tmp_path, speak)
    assert device.run() == CONTENTS
    assert len(rounds) >= GEOMETRY.count / 3
    assert device.told[-1]["received_bytes"] == len(CONTENTS)


def test_after_a_restart_only_the_rest_is_asked_for(tmp_path: Path) -> None:
    def some(inbox: Inbox, told: dict[str, Any]) -> None:
        if not told["received_bytes"]:
            for index in (3, 4, 9):
                put(inbox, index)

    def stop_after_three() -> None:
        if before.told and before.told[-1]["received_bytes"] == 3 * 1024:
            raise Stopped

    before = Device(tmp_path, some)
    with pytest.raises(Stopped):
        before.run(check=stop_after_three)
    after = Device(tmp_path, lambda inbox, told: [put(inbox, i) for i in missing(told)] and None)
    assert after.run() == CONTENTS
    assert after.told[0] == {
        "received_bytes": 3 * 1024,
        "missing": [(0, 3), (5, 9), (10, 21)],
        "round": 0,
    }


@pytest.mark.parametrize("seed", range(12))
def test_a_power_cut_costs_only_what_was_not_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """What was written since the last fdatasync is gone, though the file has its length."""
    monkeypatch.setattr(chunks, "_KEEP_BYTES", 3 * 1024)
    chance = random.Random(seed)
    path = tmp_path / "updates" / f"{SHA256}.partial"
    safe, real = [b""], os.fdatasync

    def sync(descriptor: int) -> None:
        real(descriptor)
        safe[0] = path.read_bytes()

    def cut() -> None:
        if len(before.told) > cut_at:
            monkeypatch.setattr(Assembly, "_keep", lambda _: None)  # nothing is written after it
            raise Stopped

    def speak(inbox: Inbox, told: dict[str, Any]) -> None:
        put(inbox, chance.choice(missing(told) or [0]))

    cut_at = chance.randrange(GEOMETRY.count)
    before = Device(tmp_path, speak)
    monkeypatch.setattr(os, "fdatasync", sync)
    with pytest.raises(Stopped):
        before.run(check=cut)
    monkeypatch.undo()
    path.write_bytes(safe[0])
    after = Device(tmp_path, lambda inbox, told: [put(inbox, i) for i in missing(told)] and None)
    assert after.run() == CONTENTS
    asked = [len(missing(told)) for told in after.told]
    assert asked == sorted(asked, reverse=True)  # nothing came that had to be thrown away
    had = before.told[-1]["received_bytes"] - after.told[0]["received_bytes"]
    assert had <= 3 * 1024


@pytest.mark.parametrize(
    "notes",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 9000,
        b'{"geometry":{"size_bytes":20500,"chunk_bytes":1024},"received":[[0,99]]}',
        b'{"geometry":{"size_bytes":20500,"chunk_bytes":1024},"received":[[5,2],[0,1]]}',
        b'{"geometry":{"size_bytes":20500,"chunk_bytes":1024},"received":[[-4,2]]}',
        b'{"geometry":{"size_bytes":20500,"chunk_bytes":1024},"received":[[0,21]]}',
        b'{"geometry":{"size_bytes":20500,"chunk_bytes":4096},"received":[[0,1]]}',
    ],
)
def test_notes_that_are_wrong_cost_time_and_nothing_else(tmp_path: Path, notes: bytes) -> None:
    folder = tmp_path / "updates"
    folder.mkdir()
    (folder / f"{SHA256}.partial").write_bytes(b"\0" * len(CONTENTS))
    (folder / f"{SHA256}.json").write_bytes(notes)
    device = Device(tmp_path, lambda inbox, told: [put(inbox, i) for i in missing(told)] and None)
    assert device.run() == CONTENTS


def test_a_corrupt_chunk_costs_the_whole_once_and_then_the_update(tmp_path: Path) -> None:
    bad = [b"x" * 1024]

    def speak(inbox: Inbox, told: dict[str, Any]) -> None:
        for index in missing(told):
            if index == 7 and bad:
                put(inbox, index, bad.pop() if len(bad) else None)
            else:
                put(inbox, index)

    assert Device(tmp_path, speak).run() == CONTENTS

    def worse(inbox: Inbox, told: dict[str, Any]) -> None:
        for index in missing(told):
            put(inbox, index, b"y" * len(chunk(index)))

    (tmp_path / "other").mkdir()
    with pytest.raises(BundleError, match=f"not {SHA256}"):
        Device(tmp_path / "other", worse).run()


def test_silence_ends_the_update_and_keeps_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_ROUND_S", 0.01)

    def once(inbox: Inbox, told: dict[str, Any]) -> None:
        if not told["received_bytes"]:
            put(inbox, 0)

    device = Device(tmp_path, once)
    with pytest.raises(UnavailableError, match="20 are missing"):
        device.run()
    assert device.told[-1]["round"] > 0
    again = Device(tmp_path, lambda *_: None)
    with pytest.raises(UnavailableError):
        again.run()
    assert again.told[0]["received_bytes"] == 1024


def test_a_bundle_that_has_no_room_is_refused_before_it_comes(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda *_: None)
    with pytest.raises(InputError, match="at most 100 are taken"):
        device.run(room=Room(tmp_path, 100, 0))
    with pytest.raises(UnavailableError, match="stay free"):
        device.run(room=Room(tmp_path, 10**9, 1 << 60))
    assert not device.told


def test_an_operator_sends_each_chunk_once_a_round_and_not_too_far_ahead(tmp_path: Path) -> None:
    path = tmp_path / "digits.edge"
    path.write_bytes(CONTENTS)
    source = ChunkSource(path, 1024)
    transfer = {"size_bytes": len(CONTENTS), "chunk_bytes": 1024}
    assert source.fields() == {"sha256": SHA256, "transfer": transfer}
    assert b"".join(map(source.chunk, range(source.count))) == CONTENTS
    source.close()

    pace = Pace(1024, ahead=8)
    assert pace.next() is None
    pace.heard({"status": "executing", "missing": [[0, 21]], "received_bytes": 0, "round": 0})
    assert [pace.next() for _ in range(9)] == [*range(8), None]
    pace.heard({"missing": [[2, 21]], "received_bytes": 2048, "round": 0})
    assert [pace.next() for _ in range(3)] == [8, 9, None]
    pace.heard({"missing": [[3, 5], [9, 21]], "received_bytes": 7 * 1024, "round": 1})
    assert [pace.next() for _ in range(4)] == [3, 4, 9, 10]
    for nonsense in ({}, {"missing": 3}, {"missing": [["a", "b"]]}, {"status": "successful"}):
        pace.heard(nonsense)
    assert pace.next() == 11


def test_an_operator_who_starts_anew_completes_the_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third chunk is lost, and every seventh answer meets a new operator."""
    monkeypatch.setattr(chunks, "_ROUND_S", 0.01)
    path = tmp_path / "digits.edge"
    path.write_bytes(CONTENTS)
    source, state, answers, sent = ChunkSource(path, 1024), [Pace(1024, ahead=4)], [0], [0]

    def speak(inbox: Inbox, told: dict[str, Any]) -> None:
        answers[0] += 1
        if answers[0] % 7 == 0:
            state[0] = Pace(1024, ahead=4)
        state[0].heard(told)
        while (index := state[0].next()) is not None:
            sent[0] += 1
            if sent[0] % 3:
                put(inbox, index, source.chunk(index))

    begun_s = time.monotonic()
    assert Device(tmp_path, speak).run(patience_s=LONG_S) == CONTENTS
    assert sent[0] < 4 * GEOMETRY.count, (sent, time.monotonic() - begun_s)
    source.close()

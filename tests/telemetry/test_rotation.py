"""Which broker is next, a message that a broker hangs up on, and what time it is at the least."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.telemetry.address import BrokerAddress
from edge.telemetry.backlog import Message
from edge.telemetry.backoff import Backoff
from edge.telemetry.clock_floor import ClockFloor
from edge.telemetry.rotation import Rotation
from edge.telemetry.suspect import TIMES, Suspect

BROKERS = tuple(map(BrokerAddress, "abc"))
HELD_S = 60.0


def _rotation() -> Rotation:
    return Rotation(BROKERS, Backoff(1.0, HELD_S))


def test_brokers_are_tried_at_once_one_after_another_with_a_wait_after_each_round() -> None:
    rotation = _rotation()
    tried = []
    for _ in range(6):
        tried.append((rotation.current.host, rotation.ended("is away", 0.0) > 0))
    assert tried == [("a", False), ("b", False), ("c", True)] * 2


def test_waits_grow_with_rounds_and_not_with_brokers() -> None:
    rotation = _rotation()
    waits_s = [rotation.ended("is away", 0.0) for _ in range(9)][2::3]
    assert [0.5 * 2**n <= wait_s <= 2.0**n for n, wait_s in enumerate(waits_s)] == [True] * 3


def test_after_a_connection_that_held_the_first_is_next() -> None:
    rotation = _rotation()
    rotation.ended("is away", 0.0)
    assert rotation.ended("connection lost", HELD_S) > 0
    assert rotation.current.host == "a"


def test_broker_that_breaks_at_once_does_not_keep_from_the_next() -> None:
    rotation = _rotation()
    assert rotation.ended("connection lost", HELD_S / 2) == 0
    assert rotation.current.host == "b"


def test_reasons_are_told_with_their_brokers_where_there_are_several() -> None:
    rotation = _rotation()
    rotation.ended("is away", 0.0)
    rotation.ended("does not know us", 0.0)
    assert rotation.why() == "mqtt://a:1883: is away; mqtt://b:1883: does not know us"
    assert rotation.why(1) == "mqtt://a:1883: is away"
    alone = Rotation(BROKERS[:1], Backoff())
    alone.ended("is away", 0.0)
    assert alone.why() == "is away"


def _messages(*numbers: int) -> list[Message]:
    return [Message("t", b"", number) for number in numbers]


def test_message_that_ends_each_connection_is_found_among_others() -> None:
    suspect = Suspect()
    assert suspect.window(8) == 8
    assert suspect.cut(_messages(1, 2, 3), has_taken=True) is None
    assert suspect.window(8) == 1
    suspect.taken(*_messages(1))
    cuts = [suspect.cut(_messages(2), has_taken=True) for _ in range(TIMES)]
    assert cuts == [None] * (TIMES - 1) + _messages(2)
    assert suspect.window(8) == 1
    suspect.taken(*_messages(3))
    assert suspect.window(8) == 8


def test_different_messages_are_never_given_up() -> None:
    """A broker that is restarted again and again hangs up on whatever is on its way."""
    suspect = Suspect()
    for number in range(1, 100):
        assert suspect.cut(_messages(number), has_taken=True) is None


def test_message_that_was_on_its_way_with_others_is_never_given_up() -> None:
    suspect = Suspect()
    for _ in range(3 * TIMES):
        assert suspect.cut(_messages(1, 2), has_taken=True) is None


def test_who_takes_nothing_at_all_gets_one_at_a_time_and_none_is_given_up() -> None:
    suspect = Suspect()
    for _ in range(3 * TIMES):
        assert suspect.cut(_messages(1), has_taken=False) is None
    assert suspect.window(8) == 1
    suspect.taken(*_messages(1))
    assert suspect.window(8) == 8


def test_caution_ends_though_a_suspect_never_comes_again() -> None:
    suspect = Suspect()
    suspect.cut(_messages(1), has_taken=True)
    for message in _messages(*range(2, 200)):
        suspect.taken(message)
    assert suspect.window(8) == 8


class Clock:
    """2020, unless told otherwise, and not synchronized."""

    now_s = 1.58e9
    is_right = False

    def floor(self, file: Path | None) -> ClockFloor:
        return ClockFloor(file, now_s=lambda: self.now_s, is_synchronized=lambda: self.is_right)


def test_clock_behind_this_program_can_verify_nothing() -> None:
    clock = Clock()
    clock.now_s = 600.0
    assert "the clock says 1970-01-01 00:10 UTC" in clock.floor(None).objection()
    clock.now_s = 4e9
    assert clock.floor(None).objection() == ""


def test_clock_behind_the_time_that_was_saved_can_verify_nothing(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "state" / "clock"
    clock.now_s, clock.is_right = 4e9, True
    clock.floor(file).keep()
    clock.now_s, clock.is_right = 4e9 - 100, False
    assert "it was 2096-10-02" in clock.floor(file).objection()
    clock.now_s = 4e9 + 1
    assert clock.floor(file).objection() == ""


def test_clock_that_is_synchronized_is_believed_and_lowers_the_floor(tmp_path: Path) -> None:
    """One that was wrong once keeps nobody from verifying for ever."""
    clock, file = Clock(), tmp_path / "clock"
    clock.now_s, clock.is_right = 9e9, True
    clock.floor(file).keep()
    clock.now_s = 4e9
    assert clock.floor(file).objection() == ""
    clock.floor(file).keep()
    clock.is_right = False
    assert clock.floor(file).objection() == ""


def test_time_is_saved_only_if_it_is_known_and_now_and_then(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "clock"
    floor = clock.floor(file)
    floor.keep()
    assert not file.exists()
    clock.is_right = True
    floor.keep()
    assert os.stat(file).st_mtime == clock.now_s
    clock.now_s += 10
    floor.keep()
    assert os.stat(file).st_mtime == clock.now_s - 10


@pytest.mark.parametrize("place", ["file/clock", "."])
def test_time_that_can_not_be_saved_is_no_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    clock = Clock()
    clock.is_right = True
    clock.floor(tmp_path / place).keep()

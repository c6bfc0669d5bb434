"""Power that goes at any step: what was accepted comes out again, in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from faulty_disk import FaultyFiles, PowerCut
from msgspec import structs
from outboxes import EVENT, TELEMETRY, Box, gaps, messages

from edge.telemetry.outbox import Bounds, Kind

COUNT = 24
BOUNDS = Bounds(
    segment_bytes=400,
    history_burst=1 << 30,
    min_free_bytes=0,
    fresh_s=0.0,
    checkpoint_count=5,
)


class Tale:
    """What a run was told, and what it did: all that a test may hold it to."""

    def __init__(self) -> None:
        self.accepted: list[bytes] = []
        self.put: list[bytes] = []
        self.delivered: list[bytes] = []
        self.acknowledged: set[bytes] = set()

    def say(self, box: Box, number: int) -> None:
        payload = b"%08d" % number + b"." * 30
        box.put(EVENT if number % 5 == 4 else TELEMETRY, payload)
        self.put.append(payload)

    def commit(self, box: Box) -> None:
        if box.commit():
            self.accepted = list(self.put)

    def deliver(self, box: Box, count: int) -> None:
        box.begin()
        for _ in range(count):
            taken = box.take()
            if taken is None:
                break
            self.delivered.append(taken[0].payload)
            box.acknowledge(taken[0].seq)
            self.acknowledged.add(taken[0].payload)
            box.work()


def offline(box: Box, tale: Tale) -> None:
    """The broker is away, messages gather over several segments."""
    for number in range(COUNT):
        tale.say(box, number)
        if number % 3 == 2:
            tale.commit(box)


def online_by_and_by(box: Box, tale: Tale) -> None:
    """What gathered is delivered in part, twice, while more comes."""
    offline(box, tale)
    tale.deliver(box, 8)
    tale.say(box, COUNT)
    tale.commit(box)
    tale.deliver(box, 9)
    tale.commit(box)


def closed(box: Box, tale: Tale) -> None:
    online_by_and_by(box, tale)
    tale.accepted = list(tale.put)
    box.close()


Scenario = Callable[[Box, Tale], None]
SCENARIOS = (offline, online_by_and_by, closed)


def _run(
    scenario: Scenario, contents: dict[str, bytes], cut_at: int, bounds: Bounds = BOUNDS
) -> tuple[FaultyFiles, Tale]:
    files, tale = FaultyFiles(contents, cut_at), Tale()
    try:
        scenario(Box(files, bounds), tale)
    except PowerCut:
        return files, tale
    return files, tale


def _steps(scenario: Scenario) -> int:
    return _run(scenario, {}, -1)[0].step


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_nothing_accepted_is_lost_wherever_the_power_is_cut(scenario: Scenario) -> None:
    steps = _steps(scenario)
    assert steps > 20
    for cut_at in range(steps + 1):
        files, tale = _run(scenario, {}, cut_at)
        for disk in files.after_cut():
            came = messages(Box(FaultyFiles(disk), BOUNDS).drain())
            assert came == sorted(set(came)), f"order, cut at {cut_at}: {files.calls[-3:]}"
            lost = set(tale.accepted) - set(came) - tale.acknowledged
            assert not lost, f"cut at {cut_at}: {files.calls[-3:]}"
            assert set(came) <= set(tale.put)


def test_second_cut_during_recovery_loses_nothing_either() -> None:
    for cut_at in range(0, _steps(online_by_and_by) + 1, 4):
        files, first = _run(online_by_and_by, {}, cut_at)
        for disk in files.after_cut():
            steps = _run(_recover, disk, -1)[0].step
            for second_cut in range(0, steps + 1, 3):
                again, second = _run(_recover, disk, second_cut)
                for last in again.after_cut():
                    came = messages(Box(FaultyFiles(last), BOUNDS).drain())
                    done = first.acknowledged | second.acknowledged
                    assert came == sorted(set(came))
                    assert set(first.accepted) | set(second.accepted) <= set(came) | done


def _recover(box: Box, tale: Tale) -> None:
    tale.deliver(box, 6)
    for number in range(100, 104):
        tale.say(box, number)
    tale.commit(box)
    tale.deliver(box, 4)


def test_duplicates_come_only_past_the_checkpoint() -> None:
    """No more than what was acknowledged since the last, or while it was made."""
    bounds = structs.replace(BOUNDS, segment_bytes=1 << 20)  # so that none goes as it is done
    for cut_at in range(_steps(online_by_and_by) + 1):
        files, tale = _run(online_by_and_by, {}, cut_at, bounds)
        for disk in files.after_cut():
            came = messages(Box(FaultyFiles(disk), BOUNDS).drain())
            assert len(tale.acknowledged & set(came)) <= 2 * BOUNDS.checkpoint_count


def test_gap_is_told_before_what_it_tells_of_is_removed() -> None:
    few = (Kind("telemetry", 1, 60.0, max_bytes=1200, max_age_s=1 << 20), EVENT)

    def overflow(box: Box, tale: Tale) -> None:
        for number in range(60):
            box.put(few[0], b"%08d" % number + b"." * 30)
            tale.put.append(b"%08d" % number)
            if box.commit():
                tale.accepted = list(tale.put)

    steps, cut_at = 1000, 0
    while cut_at < steps:
        files, tale = FaultyFiles(cut_at=cut_at), Tale()
        try:
            overflow(Box(files, BOUNDS, few), tale)
            steps = files.step
        except PowerCut:
            pass
        for disk in files.after_cut():
            payloads = Box(FaultyFiles(disk), BOUNDS, few).drain()
            told = {
                b"%08d" % number
                for gap in gaps(payloads)
                if gap["reason"] == "bytes"
                for number in range(int(gap["first"]), int(gap["last"]) + 1)
            }
            came = {payload[:8] for payload in messages(payloads)}
            assert set(tale.accepted) <= came | told
        cut_at += 1

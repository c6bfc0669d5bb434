"""Turns of jobs: in order within a lane, and only so many at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from edge.telemetry.commands.lanes import Lanes


class Job:
    def __init__(self, lane: str, number: int, begun: list[int]) -> None:
        self.lane = lane
        self.number = number
        self._begun = begun

    def start(self) -> None:
        self._begun.append(self.number)


@given(some.lists(some.sampled_from("abc")), some.lists(some.integers(0, 10)), some.integers(1, 3))
def test_all_jobs_run_once_and_in_order_within_their_lane(
    names: list[str], picks: list[int], most_at_once: int
) -> None:
    begun: list[int] = []
    lanes = Lanes(100, most_at_once)
    jobs = [Job(name, number, begun) for number, name in enumerate(names)]
    running: list[int] = []
    ended = 0
    for job in jobs:
        lanes.add(job)
    while ended < len(jobs):
        running += begun[len(running) + ended :]
        assert 0 < len(running) <= most_at_once
        assert len({names[number] for number in running}) == len(running)
        number = running.pop(picks[ended] % len(running) if ended < len(picks) else 0)
        ended += 1
        lanes.end(jobs[number])
    assert sorted(begun) == list(range(len(jobs)))
    for lane in set(names):
        order = [number for number in begun if names[number] == lane]
        assert order == sorted(order)


def test_job_that_is_removed_never_begins() -> None:
    begun: list[int] = []
    lanes = Lanes(2)
    first, second = Job("a", 0, begun), Job("a", 1, begun)
    lanes.add(first)
    lanes.add(second)
    assert lanes.remove(second)
    assert not lanes.remove(first)
    lanes.end(first)
    assert begun == [0]


def test_lanes_are_full_by_what_waits() -> None:
    lanes = Lanes(1)
    lanes.add(Job("a", 0, []))
    assert not lanes.is_full
    lanes.add(Job("a", 1, []))
    assert lanes.is_full

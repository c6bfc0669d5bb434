from __future__ import annotations

import threading
import time

import pytest

from edge.host.fairness import FairShare, Turns

LONG_S = 30.0
SECOND = 1_000_000_000


class Line:
    """Models that want turns all the time, and a clock that only moves when they run."""

    def __init__(self, *shares: float, concurrency: int = 1) -> None:
        self.fair = FairShare(concurrency)
        self.models = [self.fair.turns(share) for share in shares]
        self.order: list[int] = []

    def want(self, number: int) -> threading.Thread:
        """Ask for a turn on a thread, and return once it waits or has it."""
        before = self.models[number].active
        thread = threading.Thread(target=self._run, args=(number,))
        thread.start()
        wait_until(lambda: self.models[number].active > before)
        return thread

    def _run(self, number: int) -> None:
        self.fair.acquire(self.models[number])
        self.order.append(number)


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0)


def turns_of(line: Line, count: int, cost_ns: list[int]) -> list[int]:
    """Who gets ``count`` turns, with all models always wanting the next one."""
    for number in range(len(line.models)):
        line.want(number)
    for turn in range(count):
        wait_until(lambda: len(line.order) > turn)  # noqa: B023
        number = line.order[turn]
        line.want(number)  # it is back before it leaves
        line.fair.release(line.models[number], cost_ns[number])
    for turn in range(count, count + len(line.models)):  # let all go
        wait_until(lambda: len(line.order) > turn)  # noqa: B023
        line.fair.release(line.models[line.order[turn]], 0)
    return line.order[:count]


def test_models_of_equal_cost_take_turns() -> None:
    order = turns_of(Line(1, 1), 20, [SECOND, SECOND])
    assert abs(order.count(0) - order.count(1)) <= 1


def test_what_runs_longer_gets_fewer_turns() -> None:
    order = turns_of(Line(1, 1), 40, [3 * SECOND, SECOND])
    assert order.count(1) == pytest.approx(3 * order.count(0), abs=3)


def test_a_larger_share_gets_more_turns() -> None:
    order = turns_of(Line(4, 1), 50, [SECOND, SECOND])
    assert order.count(0) == pytest.approx(4 * order.count(1), abs=4)


def test_who_was_away_has_no_credit_and_who_was_alone_no_debt() -> None:
    line = Line(1, 1)
    for _ in range(1000):  # an hour alone
        line.fair.acquire(line.models[0])
        line.fair.release(line.models[0], SECOND)
    order = turns_of(line, 20, [SECOND, SECOND])
    assert abs(order.count(0) - order.count(1)) <= 2


def test_no_more_run_at_once_than_may() -> None:
    fair, running, most = FairShare(2), [0], [0]
    lock = threading.Lock()

    def work(turns: Turns) -> None:
        for _ in range(50):
            with turns:
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                time.sleep(0)
                with lock:
                    running[0] -= 1

    threads = [threading.Thread(target=work, args=(fair.turns(1),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] == 2


def test_an_error_gives_the_turn_back() -> None:
    turns = FairShare(1).turns(1)
    with pytest.raises(ValueError, match="no"), turns:
        raise ValueError("no")
    with turns:
        pass
    assert turns.active == 0
    assert turns.paid > 0

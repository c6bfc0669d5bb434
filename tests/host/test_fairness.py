from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable

import pytest
from patience import LONG_S

from edge.host.fairness import FairShare, Turns

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


def wait_until(condition: Callable[[], bool]) -> None:
    """In these tests hundreds of times, for what comes at once."""
    deadline_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline_s
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
    lock, are_two = threading.Lock(), threading.Event()

    def work(turns: Turns) -> None:
        for _ in range(50):
            with turns:
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                    if running[0] == 2:
                        are_two.set()
                assert are_two.wait(LONG_S)  # the first waits for another one
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


def test_a_limit_lets_fewer_run_and_its_end_lets_all_who_wait() -> None:
    line = Line(1, 1, 1, concurrency=0)
    line.want(0)
    line.want(1)
    wait_until(lambda: len(line.order) == 2)
    line.fair.limit(1, why="hot")
    assert line.fair.is_limited
    assert line.fair.why == "hot"
    line.want(2)
    line.fair.release(line.models[0], SECOND)  # one still runs, and no more than one may
    assert line.order == [0, 1]
    line.want(0)
    line.fair.limit()
    wait_until(lambda: len(line.order) == 4)
    assert not line.fair.is_limited
    for number in (0, 1, 2):
        line.fair.release(line.models[number], SECOND)


def test_a_limit_above_what_may_run_anyway_lets_no_more_run() -> None:
    line = Line(1, 1, concurrency=1)
    line.fair.limit(8)
    line.want(0)
    line.want(1)
    wait_until(lambda: line.order == [0])
    line.fair.release(line.models[0], SECOND)
    wait_until(lambda: line.order == [0, 1])
    line.fair.release(line.models[1], SECOND)


def test_batches_start_one_by_one_with_time_between_them() -> None:
    fair, started = FairShare(), itertools.count(1)
    ends_s: list[float] = []

    def work(turns: Turns) -> None:
        while not ends_s:
            with turns:
                if next(started) >= 21:
                    ends_s.append(time.perf_counter())

    threads = [threading.Thread(target=work, args=(fair.turns(1),)) for _ in range(4)]
    begin_s = time.perf_counter()
    fair.limit(batches_per_s=200.0)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert ends_s[0] - begin_s >= 20 * 0.005  # which a slow machine only makes longer
    fair.limit()


def test_shares_hold_among_paced_batches() -> None:
    line = Line(3, 1, concurrency=0)
    line.fair.limit(1, 2000.0)
    order = turns_of(line, 40, [SECOND, SECOND])
    assert order.count(0) == pytest.approx(3 * order.count(1), abs=4)
    line.fair.limit()


def test_a_higher_rate_shortens_the_wait_that_has_begun() -> None:
    line = Line(1, concurrency=0)
    line.fair.limit(batches_per_s=0.001)
    line.want(0)
    wait_until(lambda: line.order == [0])
    line.want(0)
    line.fair.limit(batches_per_s=1000.0)
    wait_until(lambda: line.order == [0, 0])
    line.fair.limit()


def test_the_pacer_ends_with_the_pace() -> None:
    fair, others = FairShare(), set(threading.enumerate())

    def pacers() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t not in others if t.name == "edge-pace"]

    for _ in range(3):
        fair.limit(batches_per_s=1000.0)
        assert pacers()
        with fair.turns(1):
            pass
        fair.limit()
    wait_until(lambda: not pacers())
    with fair.turns(1):
        pass


def test_a_turn_without_work_costs_nobody_the_next_one() -> None:
    line = Line(1, concurrency=0)
    line.fair.limit(batches_per_s=0.001)
    line.want(0)
    wait_until(lambda: line.order == [0])
    line.fair.give_back()
    line.fair.release(line.models[0], 0)
    line.want(0)
    wait_until(lambda: line.order == [0, 0])
    line.fair.limit()


def test_who_is_interrupted_while_it_waits_takes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    fair = FairShare(1)
    first, second = fair.turns(1), fair.turns(1)

    class Interrupted:
        """A lock whose second ``acquire``, the one that waits, ends as Ctrl-C ends it."""

        def __init__(self) -> None:
            self.count = 0

        def acquire(self) -> None:
            self.count += 1
            if self.count > 1:
                raise KeyboardInterrupt

        def release(self) -> None: ...

    fair.acquire(first)
    with monkeypatch.context() as patch:
        patch.setattr("edge.host.fairness.threading.Lock", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            fair.acquire(second)
    assert second.active == 0
    fair.release(first, SECOND)
    with second:  # the turn went to nobody
        pass


def test_it_is_open_only_while_nothing_limits() -> None:
    fair = FairShare()
    assert fair.is_open
    for limits in ({"concurrency": 3}, {"batches_per_s": 5.0}):
        fair.limit(**limits)  # type: ignore[arg-type]
        assert not fair.is_open
        fair.limit()
        assert fair.is_open
    shared = FairShare(2)
    assert not shared.is_open
    shared.limit(1)
    shared.limit()
    assert not shared.is_open


@pytest.mark.parametrize("seed", range(5))
def test_limits_that_change_all_the_time_lose_nobody_and_let_in_no_more_than_ever_may(
    seed: int,
) -> None:
    dice = random.Random(seed)
    fair = FairShare(4)
    running, most, lock = [0], [0], threading.Lock()
    is_over = threading.Event()

    def work(turns: Turns) -> None:
        for _ in range(100):
            with turns:
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                time.sleep(0)
                with lock:
                    running[0] -= 1

    def meddle() -> None:
        while not is_over.is_set():
            fair.limit(dice.choice([0, 1, 2, 9]), dice.choice([0.0, 500.0, 5000.0]))
            time.sleep(dice.choice([0.0, 0.001]))

    threads = [threading.Thread(target=work, args=(fair.turns(1 + n),)) for n in range(6)]
    meddler = threading.Thread(target=meddle)
    for thread in [*threads, meddler]:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    is_over.set()
    meddler.join(LONG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert running[0] == 0
    assert most[0] <= 4
    assert fair._running == 0

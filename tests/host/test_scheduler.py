"""Threads and batches, with an engine that stops where a test wants it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import LONG_S

from edge.core.errors import EngineError, InputError, UnavailableError
from edge.core.manifest import Variant
from edge.core.tensor import TensorSpec
from edge.host import Statistics
from edge.host.batching import BatchPlan
from edge.host.choice import Candidate
from edge.host.fairness import FairShare
from edge.host.opening import Opened
from edge.host.scheduler import Scheduler
from edge.host.seat import Seat
from edge.settings import ModelSettings

WIDTH = 3
SPEC = TensorSpec("x", "float32", ("batch", WIDTH))
BATCHES = BatchPlan(max_rows=8, inputs=(SPEC,))


class Engine:
    """``y`` is the sum of each row; ``shapes`` are those of what ran.

    While ``gate`` is closed it holds whoever runs; ``entered`` counts those.
    """

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.is_closed = False

    def await_ready(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        array = feeds["x"]
        self.shapes.append(array.shape)
        self.entered.release()
        assert self.gate.wait(LONG_S)
        if np.isnan(array).any():
            raise EngineError("not a number")
        return {"y": array.sum(-1, keepdims=True)}

    def wait_until_entered(self) -> None:
        assert self.entered.acquire(timeout=LONG_S)

    @property
    def rows(self) -> list[int]:
        return [shape[0] for shape in self.shapes]


def opened(engine: Engine) -> Opened:
    variant = Variant(id="v", engine="null", precision="fp32", files=(), inputs=(), outputs=())
    candidate = Candidate(variant, "cpu", "cpu", "null")
    return Opened(candidate, engine, "", is_fallback=False)  # type: ignore[arg-type]


def seat(engine: Engine, plan: BatchPlan = BATCHES) -> Seat:
    return Seat("m", opened(engine), plan)


Begin = Callable[..., Scheduler]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def statistics() -> Statistics:
    return Statistics()


@pytest.fixture
def begin(engine: Engine, statistics: Statistics) -> Iterator[Begin]:
    started: list[Scheduler] = []

    def make(plan: BatchPlan = BATCHES, **fields: int) -> Scheduler:
        scheduler = Scheduler("m", seat(engine, plan), ModelSettings(**fields), statistics)
        started.append(scheduler)
        return scheduler

    yield make
    engine.gate.set()
    for scheduler in started:
        scheduler.close()


def row(value: float, rows: int = 1, width: int = WIDTH) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, width), value, np.float32)}


def value(future: Future[dict[str, np.ndarray]]) -> float:
    answer = future.result(LONG_S)["y"]
    assert answer.shape == (1, 1)
    return float(answer[0, 0]) / WIDTH


def busy(scheduler: Scheduler, engine: Engine) -> Future[dict[str, np.ndarray]]:
    """A request that runs, and goes on doing so until the gate opens."""
    engine.gate.clear()
    future = scheduler.submit(row(0))
    engine.wait_until_entered()
    return future


def test_an_idle_instance_takes_a_request_at_once(begin: Begin, engine: Engine) -> None:
    scheduler = begin()
    assert [value(scheduler.submit(row(number))) for number in range(3)] == [0, 1, 2]
    assert engine.rows == [1, 1, 1]


def test_what_waits_while_it_is_busy_runs_as_one(
    begin: Begin, engine: Engine, statistics: Statistics
) -> None:
    scheduler = begin()
    first = busy(scheduler, engine)
    waiting = [scheduler.submit(row(number)) for number in range(11)]
    engine.gate.set()
    assert [value(future) for future in waiting] == list(range(11))
    assert value(first) == 0
    assert engine.rows == [1, 8, 3]
    snapshot = statistics.snapshot()
    assert {size: batch.count for size, batch in snapshot.batches.items()} == {1: 1, 8: 1, 3: 1}
    assert snapshot.execution_count == 3
    assert snapshot.success_count == 12
    assert snapshot.stages["queue"].total_ns > 0


def test_a_lone_request_is_run_on_its_own_array(begin: Begin, engine: Engine) -> None:
    seen: list[object] = []
    run = engine.run
    engine.run = lambda feeds: [seen.append(feeds["x"]), run(feeds)][1]  # type: ignore[method-assign, func-returns-value, return-value]
    feeds = row(1)
    begin().submit(feeds).result(LONG_S)
    assert seen[0] is feeds["x"]


def test_answers_of_one_batch_are_each_ones_own(begin: Begin, engine: Engine) -> None:
    scheduler = begin()
    busy(scheduler, engine)
    futures = [scheduler.submit(row(number)) for number in range(4)]
    engine.gate.set()
    answers = [future.result(LONG_S)["y"] for future in futures]
    assert all(answer.flags.owndata for answer in answers)
    answers[0][:] = -1
    assert value(futures[1]) == 1


def test_requests_of_other_shapes_run_apart(begin: Begin, engine: Engine) -> None:
    free = BatchPlan(max_rows=8, inputs=(TensorSpec("x", "float32", ("batch", "width")),))
    scheduler = begin(free)
    busy(scheduler, engine)
    futures = [scheduler.submit(row(1, width=width)) for width in (2, 5, 2, 5, 2)]
    engine.gate.set()
    assert [future.result(LONG_S)["y"].item() for future in futures] == [2, 5, 2, 5, 2]
    assert engine.shapes[1:] == [(3, 2), (2, 5)]


@pytest.mark.parametrize(
    "feeds",
    [row(1, width=4), {}, {"x": np.ones((1, WIDTH))}, {"x": np.float32(1)}],
    ids=["shape", "name", "dtype", "rank"],
)
def test_a_wrong_request_fails_alone_and_never_reaches_the_queue(
    begin: Begin, engine: Engine, statistics: Statistics, feeds: Any
) -> None:
    scheduler = begin()
    busy(scheduler, engine)
    futures = [scheduler.submit(each) for each in (row(1), feeds, row(2))]
    with pytest.raises(InputError):
        futures[1].result(0)
    engine.gate.set()
    assert (value(futures[0]), value(futures[2])) == (1, 2)
    assert engine.rows == [1, 2]
    assert statistics.snapshot().failure_count == 1


def test_a_value_that_the_engine_refuses_fails_alone(
    begin: Begin, engine: Engine, statistics: Statistics
) -> None:
    scheduler = begin()
    busy(scheduler, engine)
    futures = [scheduler.submit(row(number)) for number in (1, float("nan"), 3)]
    engine.gate.set()
    with pytest.raises(EngineError, match="not a number"):
        futures[1].result(LONG_S)
    assert (value(futures[0]), value(futures[2])) == (1, 3)
    assert engine.rows == [1, 3, 1, 1, 1]
    snapshot = statistics.snapshot()
    assert (snapshot.success_count, snapshot.failure_count) == (3, 1)
    assert {size: batch.count for size, batch in snapshot.batches.items()} == {1: 3}


def test_batches_of_a_fixed_size_are_filled_up(begin: Begin, engine: Engine) -> None:
    scheduler = begin(BatchPlan(max_rows=4, is_padded=True, inputs=(SPEC,)))
    busy(scheduler, engine)
    futures = [scheduler.submit(row(number)) for number in range(6)]
    engine.gate.set()
    assert [value(future) for future in futures] == list(range(6))
    assert engine.rows == [4, 4, 4]


def test_without_a_plan_requests_run_one_by_one(begin: Begin, engine: Engine) -> None:
    scheduler = begin(BatchPlan())
    busy(scheduler, engine)
    futures = [scheduler.submit(row(number)) for number in range(3)]
    engine.gate.set()
    assert [value(future) for future in futures] == [0, 1, 2]
    assert engine.rows == [1, 1, 1, 1]


def test_more_rows_than_a_batch_takes_run_alone(begin: Begin, engine: Engine) -> None:
    scheduler = begin()
    assert scheduler.submit(row(1, rows=20)).result(LONG_S)["y"].shape == (20, 1)
    assert scheduler.submit(row(1, rows=0)).result(LONG_S)["y"].shape == (0, 1)
    assert engine.rows == [20, 0]


def test_priorities_decide_who_is_next(begin: Begin, engine: Engine) -> None:
    scheduler = begin(BatchPlan())
    busy(scheduler, engine)
    order: list[int] = []
    futures = []
    for priority in (12, 0, 3, 1):
        future = scheduler.submit(row(priority), priority=priority)
        future.add_done_callback(lambda done: order.append(int(value(done))))
        futures.append(future)
    engine.gate.set()
    wait(futures, LONG_S)
    scheduler.close()
    assert order == [1, 3, 0, 12]


def test_who_waited_too_long_is_refused_without_running(
    begin: Begin, engine: Engine, statistics: Statistics
) -> None:
    scheduler = begin()
    busy(scheduler, engine)
    late = scheduler.submit(row(1), timeout_us=1)
    in_time = scheduler.submit(row(2), timeout_us=int(LONG_S * 1e6))
    engine.gate.set()
    with pytest.raises(UnavailableError, match=r"timeout passed while it waited .* for m"):
        late.result(LONG_S)
    assert value(in_time) == 2
    assert engine.rows == [1, 1]
    assert statistics.snapshot().refused == {"full": 0, "late": 1}


def test_a_full_queue_refuses_with_a_hint_and_goes_on(
    begin: Begin, engine: Engine, statistics: Statistics
) -> None:
    scheduler = begin(queue=2)
    busy(scheduler, engine)
    waiting = [scheduler.submit(row(number)) for number in (1, 2)]
    with pytest.raises(UnavailableError, match="2 requests wait for m already") as caught:
        scheduler.submit(row(3))
    assert "[models.m]" in caught.value.hint
    urgent = scheduler.submit(row(4), priority=1)
    with pytest.raises(UnavailableError, match="2 requests wait"):
        waiting[1].result(LONG_S)
    engine.gate.set()
    assert (value(waiting[0]), value(urgent)) == (1, 4)
    assert statistics.snapshot().refused == {"full": 2, "late": 0}


def test_who_waits_in_vain_makes_room_in_a_full_queue(begin: Begin, engine: Engine) -> None:
    scheduler = begin(queue=2)
    busy(scheduler, engine)
    late, cancelled = scheduler.submit(row(1), timeout_us=1), scheduler.submit(row(2))
    cancelled.cancel()
    third = scheduler.submit(row(3))
    with pytest.raises(UnavailableError, match="timeout passed"):
        late.result(0)
    engine.gate.set()
    assert value(third) == 3


def test_a_cancelled_request_does_not_run(begin: Begin, engine: Engine) -> None:
    scheduler = begin()
    busy(scheduler, engine)
    futures = [scheduler.submit(row(number)) for number in range(3)]
    assert futures[1].cancel()
    engine.gate.set()
    assert (value(futures[0]), value(futures[2])) == (0, 2)
    assert engine.rows == [1, 2]


def test_as_many_batches_run_at_once_as_there_are_instances(begin: Begin, engine: Engine) -> None:
    scheduler = begin(instances=3)
    engine.gate.clear()
    futures = []
    for number in range(3):
        futures.append(scheduler.submit(row(number)))
        engine.wait_until_entered()
    futures += [scheduler.submit(row(number)) for number in (3, 4)]
    assert not engine.entered.acquire(timeout=0.02)
    engine.gate.set()
    assert [value(future) for future in futures] == [0, 1, 2, 3, 4]


def test_an_idle_instance_waits_for_the_company_that_the_last_batch_had(
    begin: Begin, engine: Engine
) -> None:
    scheduler = begin(max_delay_us=int(LONG_S * 1e6) // 4)
    busy(scheduler, engine)
    futures = [scheduler.submit(row(number)) for number in range(3)]
    engine.gate.set()  # four are about, of which three wait: they wait for the fourth
    assert not engine.entered.acquire(timeout=0.02)
    futures.append(scheduler.submit(row(3)))
    assert [value(future) for future in futures] == [0, 1, 2, 3]
    assert engine.rows == [1, 4]


def test_nobody_waits_for_company_that_does_not_come(begin: Begin, engine: Engine) -> None:
    scheduler = begin(max_delay_us=1000)
    busy(scheduler, engine)
    waiting = [scheduler.submit(row(number)) for number in range(3)]
    engine.gate.set()
    wait(waiting, LONG_S)
    assert value(scheduler.submit(row(7))) == 7  # after its millisecond
    assert engine.rows[-1] == 1


def test_who_is_in_a_hurry_does_not_wait_for_company(begin: Begin, engine: Engine) -> None:
    scheduler = begin(max_delay_us=int(LONG_S * 1e6) // 4)
    busy(scheduler, engine)
    hurried = scheduler.submit(row(1), timeout_us=int(LONG_S * 1e6))
    scheduler.submit(row(2)).cancel()
    engine.gate.set()
    assert value(hurried) == 1


def test_closing_finishes_what_waits_and_refuses_what_comes(begin: Begin, engine: Engine) -> None:
    scheduler = begin(max_delay_us=int(LONG_S * 1e6) // 4)
    first = busy(scheduler, engine)
    waiting = [scheduler.submit(row(number)) for number in range(20)]
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    while not scheduler._is_closed:
        pass
    with pytest.raises(UnavailableError, match="m is closed"):
        scheduler.submit(row(1))
    engine.gate.set()
    closing.join(LONG_S)
    assert first.done()
    assert [value(future) for future in waiting] == list(range(20))
    assert not any(thread.is_alive() for thread in scheduler._threads)


def test_it_can_be_closed_by_its_own_thread_and_before_it_started(
    begin: Begin, engine: Engine
) -> None:
    begin().close()
    scheduler = begin()
    engine.gate.clear()
    future = scheduler.submit(row(1))
    future.add_done_callback(lambda _: scheduler.close())
    engine.gate.set()
    assert value(future) == 1
    for thread in scheduler._threads:
        thread.join(LONG_S)
        assert not thread.is_alive()


def test_another_session_takes_over_between_two_batches(begin: Begin, engine: Engine) -> None:
    place = seat(engine)
    scheduler = Scheduler("m", place, ModelSettings(), Statistics())
    first = busy(scheduler, engine)
    waiting = [scheduler.submit(row(number)) for number in range(2)]
    successor = Engine()
    place.replace(opened(successor), BatchPlan())
    engine.gate.set()
    assert [value(future) for future in (first, *waiting)] == [0, 0, 1]
    assert (engine.rows, successor.rows) == ([1], [1, 1])
    assert engine.is_closed
    scheduler.close()


def test_a_session_that_does_not_come_back_fails_the_requests_that_wait_for_it(
    engine: Engine, statistics: Statistics
) -> None:
    errors = [EngineError("out of memory")]

    def reopen(before: Opened) -> Opened:
        if errors:
            raise errors.pop()
        return opened(engine)

    place = Seat("m", opened(engine), BATCHES, reopen)
    scheduler = Scheduler("m", place, ModelSettings(), statistics)
    place.evict("room")
    with pytest.raises(EngineError, match="out of memory"):
        scheduler.submit(row(1)).result(LONG_S)
    assert value(scheduler.submit(row(2))) == 2
    assert statistics.snapshot().failure_count == 1
    scheduler.close()


def test_models_that_share_a_machine_run_one_at_a_time_and_answers_hold_up_nobody() -> None:
    engine, other = Engine(), Engine()
    fair, plan = FairShare(1), BatchPlan()
    first, second = (
        Scheduler(name, seat(one, plan), ModelSettings(), Statistics(), turns=fair.turns(1))
        for name, one in (("first", engine), ("second", other))
    )
    running = busy(first, engine)
    waiting = second.submit(row(1))
    assert not other.entered.acquire(timeout=0.02)
    # What is called when an answer is there may wait for the other model.
    seen: list[float] = []
    running.add_done_callback(lambda _: seen.append(value(second.submit(row(2)))))
    engine.gate.set()
    assert value(waiting) == 1
    first.close()
    second.close()
    assert seen == [2]


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 3)), min_size=1, max_size=30),
    max_rows=st.integers(1, 9),
    instances=st.integers(1, 3),
    priorities=st.randoms(use_true_random=False),
)
def test_any_requests_in_any_order_get_what_they_get_alone(
    sizes: list[tuple[int, int]], max_rows: int, instances: int, priorities: Any
) -> None:
    engine = Engine()
    spec = TensorSpec("x", "float32", ("batch", "width"))
    plan = BatchPlan(max_rows, inputs=(spec,)) if max_rows > 1 else BatchPlan()
    noise = np.random.default_rng(len(sizes))
    feeds = [{"x": noise.integers(-9, 9, size).astype(np.float32)} for size in sizes]
    scheduler = Scheduler("m", seat(engine, plan), ModelSettings(instances=instances), Statistics())
    engine.gate.clear()
    futures = [scheduler.submit(each, priority=priorities.randint(0, 20)) for each in feeds]
    engine.gate.set()
    scheduler.close()
    for each, future in zip(feeds, futures, strict=True):
        np.testing.assert_array_equal(future.result(0)["y"], each["x"].sum(-1, keepdims=True))
    assert all(rows <= max_rows or rows in {size for size, _ in sizes} for rows in engine.rows)

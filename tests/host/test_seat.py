"""A session that comes and goes under those who run it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from patience import LONG_S

from edge.core.contracts import Session
from edge.core.errors import EngineError, UnavailableError
from edge.core.manifest import Variant
from edge.host.batching import BatchPlan
from edge.host.choice import Candidate
from edge.host.opening import Opened
from edge.host.seat import Seat

VARIANT = Variant(id="v", engine="null", precision="fp32", files=(), inputs=(), outputs=())
FEEDS: dict[str, Any] = {}


class Held(Session):
    """A run begins, and waits."""

    inputs = ()
    outputs = ()

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.closed = 0

    def _run(self, feeds: Any) -> Any:
        self.begun.set()
        assert self.go.wait(LONG_S)
        assert not self.closed
        return {"by": self}

    def close(self) -> None:
        self.closed += 1


def opened(session: Session) -> Opened:
    return Opened(Candidate(VARIANT, "cpu", "cpu", "null"), session, "", is_fallback=False)


def free() -> Held:
    session = Held()
    session.go.set()
    return session


def test_a_replaced_session_is_closed_after_its_last_run_and_late_ones_go_to_the_new_one() -> None:
    first, second = Held(), free()
    seat = Seat("m", opened(first), BatchPlan())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(seat.run, FEEDS)
        assert first.begun.wait(LONG_S)
        assert seat.replace(opened(second), BatchPlan())
        assert first.closed == 0
        assert seat.run(FEEDS) == {"by": second}
        first.go.set()
        assert running.result(LONG_S) == {"by": first}
    assert (first.closed, second.closed) == (1, 0)


def test_an_idle_session_is_closed_at_once() -> None:
    first = Held()
    Seat("m", opened(first), BatchPlan()).replace(opened(Held()), BatchPlan())
    assert first.closed == 1


def test_an_evicted_session_ends_its_runs_and_comes_back_with_the_next() -> None:
    first, second = Held(), free()
    seat = Seat("m", opened(first), BatchPlan(), lambda before: opened(second))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(seat.run, FEEDS)
        assert first.begun.wait(LONG_S)
        seat.evict("room")
        assert (seat.is_taken, first.closed) == (False, 0)
        assert seat.run(FEEDS) == {"by": second}
        first.go.set()
        assert running.result(LONG_S) == {"by": first}
    assert first.closed == 1
    assert (seat.loads, seat.evictions) == (2, {"room": 1})


def test_it_comes_back_once_however_many_wait_for_it() -> None:
    made: list[Held] = []
    may_load = threading.Event()

    def reopen(before: Opened) -> Opened:
        assert may_load.wait(LONG_S)
        made.append(free())
        return opened(made[-1])

    seat = Seat("m", opened(Held()), BatchPlan(), reopen)
    seat.evict("idle")
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(seat.run, FEEDS) for _ in range(16)]
        while not seat.is_loading:
            pass
        may_load.set()
        assert all(future.result(LONG_S) == {"by": made[0]} for future in running)
    assert len(made) == 1


def test_one_that_does_not_come_back_is_asked_again() -> None:
    second = free()
    answers: list[Any] = [EngineError("out of memory"), opened(second)]

    def reopen(before: Opened) -> Opened:
        answer = answers.pop(0)
        if isinstance(answer, EngineError):
            raise answer
        assert isinstance(answer, Opened)
        return answer

    seat = Seat("m", opened(Held()), BatchPlan(), reopen)
    seat.evict("idle")
    with pytest.raises(EngineError, match="out of memory"):
        seat.run(FEEDS)
    assert seat.run(FEEDS) == {"by": second}


def test_a_closed_seat_waits_for_its_last_run_and_refuses_the_next() -> None:
    first = Held()
    seat = Seat("m", opened(first), BatchPlan(), lambda before: opened(free()))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(seat.run, FEEDS)
        assert first.begun.wait(LONG_S)
        seat.close()
        seat.close()
        with pytest.raises(UnavailableError, match="model m is closed"):
            seat.run(FEEDS)
        assert not seat.replace(opened(free()), BatchPlan())
        first.go.set()
        assert running.result(LONG_S) == {"by": first}
    assert first.closed == 1


def test_what_is_opened_for_a_seat_that_is_closed_meanwhile_is_closed() -> None:
    second = free()
    seats: list[Seat] = []

    def reopen(before: Opened) -> Opened:
        seats[0].close()
        return opened(second)

    seats.append(Seat("m", opened(Held()), BatchPlan(), reopen))
    seats[0].evict("idle")
    with pytest.raises(UnavailableError, match="was closed while it was loaded"):
        seats[0].run(FEEDS)
    assert second.closed == 1


def test_a_barred_seat_stays_empty_until_the_bar_is_lifted() -> None:
    seat = Seat("m", opened(Held()), BatchPlan(), lambda before: opened(free()))
    seat.bar("model m was unloaded")
    seat.evict("request")
    with pytest.raises(UnavailableError, match="model m was unloaded"):
        seat.run({"x": np.zeros(1)})
    seat.bar("")
    assert seat.run(FEEDS)


def test_what_is_opened_for_a_seat_that_is_barred_meanwhile_is_closed() -> None:
    second = free()

    def reopen(before: Opened) -> Opened:
        seat.bar("model m was unloaded")
        seat.evict("request")
        return opened(second)

    seat = Seat("m", opened(Held()), BatchPlan(), reopen)
    seat.evict("idle")
    with pytest.raises(UnavailableError, match="model m was unloaded"):
        seat.run(FEEDS)
    assert (seat.is_taken, second.closed) == (False, 1)


def test_what_replaces_the_session_of_a_barred_seat_waits_unloaded() -> None:
    second, third = free(), free()
    seat = Seat("m", opened(Held()), BatchPlan(), lambda before: opened(third))
    seat.bar("model m was unloaded")
    seat.evict("request")
    assert seat.replace(opened(second), BatchPlan())
    assert (seat.is_taken, second.closed) == (False, 1)
    seat.bar("")
    assert seat.run(FEEDS) == {"by": third}


def test_a_room_has_no_occupant_before_that_can_be_evicted() -> None:
    class Watched:
        is_going = False
        was_taken: tuple[bool, ...] = ()

        def leave(self) -> None: ...

        def occupy(self, seat: Seat) -> None:
            self.was_taken += (seat.is_taken,)

    room: Any = Watched()

    def with_room() -> Opened:
        return opened(free())._replace(room=room)

    seat = Seat("m", with_room(), BatchPlan(), lambda before: with_room())
    seat.evict("room")
    assert seat.run(FEEDS)
    assert seat.replace(with_room(), BatchPlan())
    assert room.was_taken == (True, True, True)

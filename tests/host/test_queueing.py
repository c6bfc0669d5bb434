from __future__ import annotations

import pytest

from edge.core.errors import InputError
from edge.host.queueing import Request, RequestQueue

KIND = ("same",)


def request(
    name: str, *, kind: object = KIND, rows: int = 1, priority: int = 0, timeout_us: int = 0
) -> Request:
    made = Request({"name": name}, 0)  # type: ignore[dict-item]
    made.kind, made.rows = kind, rows  # type: ignore[assignment]
    made.demand(priority, timeout_us)
    return made


def names(requests: list[Request]) -> str:
    return "".join(str(one.feeds["name"]) for one in requests)


def queue(*requests: Request, limit: int = 100) -> RequestQueue:
    made = RequestQueue(limit)
    for one in requests:
        assert made.add(one) is None
    return made


def test_requests_run_in_the_order_they_came() -> None:
    waiting = queue(*map(request, "abcde"))
    assert [names(waiting.take(2, 1)[0]) for _ in range(3)] == ["ab", "cd", "e"]
    assert len(waiting) == waiting.rows == 0


def test_priority_1_goes_first_and_0_stands_for_10() -> None:
    waiting = queue(
        request("low", priority=11),
        request("default"),
        request("ten", priority=10),
        request("nine", priority=9),
        request("first", priority=1),
    )
    order = [names(waiting.take(1, 1)[0]) for _ in range(5)]
    assert order == ["first", "nine", "default", "ten", "low"]


def test_only_requests_of_one_kind_run_together_and_the_rest_keep_their_turn() -> None:
    waiting = queue(
        request("a"), request("B", kind=("other",)), request("c"), request("D", kind=("other",))
    )
    assert [names(waiting.take(8, 1)[0]) for _ in range(2)] == ["ac", "BD"]


def test_a_request_without_a_kind_runs_alone() -> None:
    waiting = queue(request("a", kind=None), request("b", kind=None), request("c"), request("d"))
    assert [names(waiting.take(8, 1)[0]) for _ in range(3)] == ["a", "b", "cd"]


def test_rows_never_exceed_what_a_batch_may_hold() -> None:
    waiting = queue(request("a", rows=3), request("b", rows=2), request("c"), request("d", rows=3))
    assert waiting.rows == 9
    assert [names(waiting.take(4, 1)[0]) for _ in range(3)] == ["ac", "b", "d"]
    assert waiting.rows == 0


def test_what_is_too_late_is_handed_back_and_does_not_run() -> None:
    waiting = queue(request("a", timeout_us=1), request("b"), request("c", timeout_us=2))
    batch, late = waiting.take(8, 1_500)
    assert (names(batch), names(late)) == ("bc", "a")


def test_what_was_cancelled_is_dropped() -> None:
    waiting = queue(*map(request, "abc"))
    waiting.head.future.cancel()
    batch, late = waiting.take(8, 1)
    assert (names(batch), late) == ("bc", [])
    assert waiting.rows == 0


def test_what_runs_can_not_be_cancelled_any_more_and_what_was_put_aside_can() -> None:
    other = request("b", kind=("other",))
    waiting = queue(request("a"), other)
    (running,), _ = waiting.take(8, 1)
    assert not running.future.cancel()
    assert other.future.cancel()


def test_a_full_queue_lets_the_last_of_the_least_urgent_go() -> None:
    waiting = queue(request("a"), request("b"), request("c", priority=2), limit=3)
    late_comer = request("d")
    assert waiting.add(late_comer) is late_comer
    loser = waiting.add(request("e", priority=3))
    assert loser is not None
    assert names([loser]) == "b"
    assert names(waiting.take(8, 1)[0]) == "cea"
    assert waiting.rows == 0


def test_purging_makes_room_of_who_waits_in_vain() -> None:
    cancelled = request("b")
    waiting = queue(request("a", timeout_us=1), cancelled, request("c"), limit=3)
    cancelled.future.cancel()
    assert names(waiting.purge(5_000)) == "a"
    assert not waiting.is_full
    assert waiting.rows == 1


@pytest.mark.parametrize(("priority", "timeout_us"), [(-1, 0), (0, -1)])
def test_negative_demands_are_refused(priority: int, timeout_us: int) -> None:
    with pytest.raises(InputError, match="must not be negative"):
        request("a", priority=priority, timeout_us=timeout_us)

"""Whatever happens, the parts are the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from edge.host.metering.ledger import Ledger
from edge.host.metering.work import Work

KEYS = [("a", "1"), ("a", "2"), ("b", "1")]

counts, times_ns = some.integers(0, 1000), some.integers(0, 10**11)
one_work = some.builds(
    Work, counts, times_ns, times_ns, counts, times_ns, counts, times_ns, recalled=counts
)
works = some.dictionaries(
    some.sampled_from(KEYS),
    one_work,
)
intervals = some.tuples(
    some.just(0.0) | some.floats(1e-6, 100.0),
    some.none() | some.floats(0.0, 1e4),
    works,
    some.none() | some.floats(0.001, 100.0),
    some.sets(some.sampled_from(KEYS)),
)


@given(some.lists(intervals, max_size=30))
def test_shares_are_never_negative_never_fall_and_are_the_whole_together(
    given_intervals: list[tuple[float, float | None, dict[tuple[str, str], Work], float, set]],
) -> None:
    ledger = Ledger()
    joules = measured_s = 0.0
    inferences = 0
    before = 0.0
    for seconds, drawn, done, idle_watts, kept in given_intervals:
        ledger.enter(seconds, drawn, done, idle_watts)
        ledger.keep(kept)
        joules += drawn or 0.0
        measured_s += 0.0 if drawn is None else seconds
        inferences += sum(work.inferences for work in done.values())
        accounts = ledger.all_accounts()
        attributed = sum(account.joules for account in accounts)
        assert attributed >= before * (1 - 1e-12)
        before = attributed
        assert all(account.joules >= 0.0 <= account.device_s for account in accounts)
        assert all(
            account.above_idle_joules <= account.joules * (1 + 1e-9) + 1e-9 for account in accounts
        )
    accounts = ledger.all_accounts()
    assert ledger.joules == pytest.approx(joules)
    assert ledger.measured_s == pytest.approx(measured_s)
    total = ledger.idle_joules + sum(account.joules for account in accounts)
    assert total == pytest.approx(joules, abs=1e-6)
    assert sum(account.work.inferences for account in accounts) == inferences
    assert ledger.device_s <= ledger.seconds * (1 + 1e-9) + 1e-9


@given(one_work)
def test_inferences_and_answers_of_the_cache_together_are_all_that_was_done(work: Work) -> None:
    if not work.has_run:
        return
    answers = work.inferences + work.recalled
    told = work.inferences * work.engine_share + answers * work.transfer_share
    assert told == pytest.approx(1.0)

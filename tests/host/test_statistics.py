from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import EngineError
from edge.host.statistics import STAGES, Statistics

MS = 1_000_000


def test_success_counts_queue_and_infer() -> None:
    statistics = Statistics()
    statistics.success(2 * MS, 1 * MS)
    snapshot = statistics.snapshot()
    assert (snapshot.success_count, snapshot.success_ns) == (1, 3 * MS)
    assert (snapshot.failure_count, snapshot.failure_ns) == (0, 0)
    assert snapshot.stages["infer"].total_ns == 2 * MS
    assert snapshot.stages["queue"].total_ns == 1 * MS
    assert snapshot.last_ms > 0


def test_failure_is_no_success() -> None:
    statistics = Statistics()
    statistics.failure(5, EngineError("broken"))
    snapshot = statistics.snapshot()
    assert (snapshot.success_count, snapshot.failure_count, snapshot.failure_ns) == (0, 1, 5)
    assert snapshot.last_ms == 0


def test_transfer_counts_input_and_output() -> None:
    statistics = Statistics()
    statistics.success(MS)
    statistics.transfer(10, 20)
    snapshot = statistics.snapshot()
    assert snapshot.stages["input"].total_ns == 10
    assert snapshot.stages["output"].total_ns == 20
    assert snapshot.success_ns == MS + 30


def test_a_snapshot_does_not_change_afterwards() -> None:
    statistics = Statistics()
    before = statistics.snapshot()
    statistics.success(MS)
    assert before.success_count == 0
    assert before.stages["infer"].count == 0


def test_since_gives_the_latencies_in_between() -> None:
    statistics = Statistics()
    for _ in range(1000):
        statistics.success(MS)
    before = statistics.snapshot().stages["infer"]
    statistics.success(100 * MS)
    window = statistics.snapshot().stages["infer"].since(before)
    assert (window.count, window.total_ns) == (1, 100 * MS)
    assert window.percentile_ms(50) == pytest.approx(100, rel=1 / 16)


def test_no_percentile_of_nothing() -> None:
    assert Statistics().snapshot().stages["infer"].percentile_ms(99) == 0.0


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=60), st.integers(1, 100))
def test_percentiles_are_within_a_sixteenth_of_the_truth(times: list[int], percent: int) -> None:
    statistics = Statistics()
    for ns in times:
        statistics.success(ns)
    rank = max(1, -(-percent * len(times) // 100))
    truth = sorted(times)[rank - 1] / 1e6
    found = statistics.snapshot().stages["infer"].percentile_ms(percent)
    assert found == pytest.approx(truth, rel=1 / 16, abs=1e-9)


def test_what_lasts_for_days_counts_in_the_last_bucket() -> None:
    statistics = Statistics()
    statistics.success(10**18)
    histogram = statistics.snapshot().stages["infer"]
    assert histogram.buckets == {351: 1}


def test_no_count_is_lost_between_threads() -> None:
    statistics = Statistics()

    def record() -> None:
        for _ in range(2000):
            statistics.success(7)
            statistics.failure(1, EngineError("broken"))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = statistics.snapshot()
    assert (snapshot.success_count, snapshot.failure_count) == (8000, 8000)
    assert sum(snapshot.stages["infer"].buckets.values()) == 8000
    assert set(snapshot.stages) == set(STAGES)

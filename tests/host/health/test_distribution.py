"""Quantile bins, and what the stability index of equal distributions is by chance."""

from __future__ import annotations

import numpy as np
import pytest

from edge.host.health.distribution import (
    MOST_BINS,
    Distribution,
    distribution,
    expected_index,
    index_by_chance,
    stability_index,
)


def test_bins_hold_equal_shares_of_what_they_were_made_of() -> None:
    made = distribution(np.random.default_rng(0).normal(size=500).tolist())
    assert len(made.counts) == MOST_BINS
    assert set(made.counts) == {50}


def test_few_samples_make_few_bins() -> None:
    made = distribution(np.random.default_rng(0).normal(size=80).tolist())
    assert len(made.counts) == 4


def test_whole_numbers_do_not_share_a_bin_while_there_are_bins() -> None:
    made = distribution([0.0] * 120 + [1.0] * 60 + [2.0] * 20)
    assert made.counts == (120, 60, 20)
    assert made.binned([0, 1, 1, 2, 7]) == [1, 2, 2]


def test_a_constant_lies_between_two_empty_bins() -> None:
    made = distribution([3.25] * 100)
    assert made.counts == (0, 100, 0)
    assert made.binned([3.25, 3.2501]) == [0, 2, 0]
    assert made.binned([3.0, 3.5]) == [1, 0, 1]


def test_what_is_no_number_lies_in_the_last_bin() -> None:
    made = distribution([float(value) for value in range(100)])
    assert made.binned([float("nan"), float("inf"), float("-inf")]) == [1, 0, 0, 0, 2]


def test_equal_samples_have_no_index_and_others_have() -> None:
    assert stability_index([10, 20, 30], [20, 40, 60]) == pytest.approx(0.0, abs=1e-3)
    # (0.5 - 0.25) ln 2 twice, as the textbook has it, less the little that smoothing takes.
    assert stability_index([2500, 7500], [5000, 5000]) == pytest.approx(0.2747, abs=1e-3)


@pytest.mark.parametrize(("count", "reference_count"), [(200, 100), (200, 500), (500, 300)])
def test_chance_is_what_random_samples_show(count: int, reference_count: int) -> None:
    random = np.random.default_rng(1)
    indices = []
    for _ in range(4000):
        made = distribution(random.normal(size=reference_count).tolist())
        drawn = np.histogram(random.normal(size=count), [-np.inf, *made.edges, np.inf])[0]
        indices.append(stability_index(made.counts, drawn.tolist()))
    shape = (len(made.counts), count, reference_count)
    assert np.mean(indices) == pytest.approx(expected_index(*shape), rel=0.1)
    share = np.mean(np.array(indices) > index_by_chance(*shape, 0.01))
    assert 0.004 < share < 0.016


@pytest.mark.parametrize(
    ("edges", "counts"), [((1.0, 0.0), (1, 1, 1)), ((0.0,), (1,)), ((0.0,), (0, 0))]
)
def test_a_distribution_that_makes_no_sense_is_refused(
    edges: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="rising edges"):
        Distribution(edges, counts, 0.0)

"""Ranges from histograms."""

from __future__ import annotations

import numpy as np
import pytest

from converters._quantization.ranges import STEPS, least_error


def _error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / STEPS
    rounded = np.clip(np.round((values - low) / step) * step + low, low, high)
    return float(np.square(values - rounded).sum())


@pytest.mark.parametrize("outlier", [20.0, 500.0])
def test_far_outliers_are_clipped_when_that_loses_less(outlier):
    generator = np.random.default_rng(0)
    values = np.append(generator.standard_normal(100_000), outlier)
    low, high = least_error(*np.histogram(values, 2048))
    assert _error(values, low, high) <= 1.02 * _error(values, values.min(), values.max())
    assert -5.0 < low < -2.5
    assert high <= outlier


def test_values_of_one_sign_keep_zero_in_the_range():
    counts, edges = np.histogram(np.random.default_rng(0).random(1000) + 5.0, 128)
    low, high = least_error(counts, edges)
    assert low == 0.0
    assert high == pytest.approx(6.0, abs=0.1)

"""Ranges from histograms."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from converters._quantization.onnx_int8 import joined
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


def test_what_a_concat_joins_gets_one_range_where_that_costs_little():
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["ab"], axis=1),
        helper.make_node("Concat", ["c", "d"], ["cd"], axis=1),
    ]
    model = helper.make_model(helper.make_graph(nodes, "joins", [], []))
    ranges = {"a": (0.0, 4.0), "b": (-1.0, 5.0), "ab": (-1.0, 4.5)}
    ranges |= {"c": (0.0, 1.0), "d": (0.0, 9.0), "cd": (0.0, 9.0)}
    found = joined(model, ranges)
    assert {found[name] for name in ("a", "b", "ab")} == {(-1.0, 5.0)}
    assert {name: found[name] for name in ("c", "d", "cd")} == {
        name: ranges[name] for name in ("c", "d", "cd")
    }

"""Calibration samples are spread, limited and checked."""

from __future__ import annotations

import numpy as np
import pytest

from converters._quantization.samples import CalibrationSamples
from edge.core.tensor import TensorSpec

SPECS = (TensorSpec("x", "float32", ("batch", 2)),)


class _Numbered:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self):  # type: ignore[no-untyped-def]
        return ({"x": np.full((1, 2), n, np.float32)} for n in range(self.count))


@pytest.mark.parametrize(("count", "limit"), [(10, 3), (3, 10), (100, 99), (7, 7)])
def test_samples_are_spread_evenly_and_end_at_the_limit(count, limit):
    samples = CalibrationSamples(_Numbered(count), SPECS, limit)
    taken = [int(feeds["x"][0, 0]) for feeds in samples]
    assert len(taken) == len(samples) == min(count, limit)
    assert taken == sorted(set(taken))
    assert taken[0] == 0
    assert taken[-1] >= count - count / limit - 1


def test_samples_can_be_gone_through_again():
    samples = CalibrationSamples(_Numbered(5), SPECS, 2)
    assert [f["x"].tolist() for f in samples] == [f["x"].tolist() for f in samples]


def test_enough_samples_leave_no_note():
    assert CalibrationSamples(_Numbered(32), SPECS).notes == ()
    assert "31 samples" in CalibrationSamples(_Numbered(31), SPECS).notes[0]

"""How near the answers of a quantized model are to those of the float model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edge.core.lazy import require

if TYPE_CHECKING:
    from edge.core.tensor import Array

JUDGED = 64
"""Samples on which calibrations are compared."""


def closeness_db(
    expected: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]]
) -> float:
    """Signal to noise ratio in dB, the mean over the float outputs."""
    ratios = _noise_ratios(expected, got)
    return -10 * sum(math.log10(ratio) for ratio in ratios) / len(ratios) if ratios else 0.0


def noise_ratio(
    expected: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]]
) -> float:
    """Power of the noise over that of the signal, the mean over the float outputs."""
    ratios = _noise_ratios(expected, got)
    return sum(ratios) / len(ratios) if ratios else 0.0


def _noise_ratios(
    expected: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]]
) -> list[float]:
    np = require("numpy", extra="convert")
    ratios = []
    for name, first in expected[0].items():
        if first.dtype.kind != "f":
            continue
        signal = sum(float(np.square(e[name], dtype=np.float64).sum()) for e in expected)
        noise = sum(
            float(np.square(e[name] - g[name], dtype=np.float64).sum())
            for e, g in zip(expected, got, strict=True)
        )
        ratios.append(max(noise, 1e-30) / max(signal, 1e-30))
    return ratios

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
    np = require("numpy", extra="convert")
    figures = []
    for name, first in expected[0].items():
        if first.dtype.kind != "f":
            continue
        signal = sum(float(np.square(e[name], dtype=np.float64).sum()) for e in expected)
        noise = sum(
            float(np.square(e[name] - g[name], dtype=np.float64).sum())
            for e, g in zip(expected, got, strict=True)
        )
        figures.append(10 * math.log10(max(signal, 1e-30) / max(noise, 1e-30)))
    return sum(figures) / len(figures) if figures else 0.0

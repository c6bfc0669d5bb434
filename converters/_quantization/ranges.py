"""The range of an activation that loses least when it is quantized, from its histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.core.lazy import require

if TYPE_CHECKING:
    from edge.core.tensor import Array

STEPS = 255
CANDIDATES = 128


def least_error(counts: Array, edges: Array) -> tuple[float, float]:
    """The range with the least squared error of rounding inside and clipping outside.

    Args:
        counts: How many values lie in each bin.
        edges: Of the bins, one more than ``counts``; 0 lies within the range that is found.
    """
    np = require("numpy", extra="convert")
    centers = (edges[:-1] + edges[1:]) / 2
    low, high = min(0.0, float(edges[0])), max(0.0, float(edges[-1]))
    total = float(counts.sum())

    def error(lows: Array, highs: Array) -> Array:
        over = np.clip(centers - highs[:, None], 0, None) + np.clip(
            lows[:, None] - centers, 0, None
        )
        rounding = ((highs - lows) / STEPS) ** 2 / 12 * total
        summed: Array = (over**2) @ counts + rounding
        return summed

    shares = np.linspace(1 / CANDIDATES, 1, CANDIDATES)
    lows, highs = shares * low, shares * high
    for _ in range(2):  # each end for the other one's best
        high = float(highs[error(np.full(CANDIDATES, low), highs).argmin()])
        low = float(lows[error(lows, np.full(CANDIDATES, high)).argmin()])
    return low, high

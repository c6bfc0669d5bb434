"""Distributions in quantile bins, and by how much another sample differs from one.

The population stability index is the sum over bins of (p - q) ln(p / q). For two samples of n and
m values from one distribution in B bins it is not 0: n m / (n + m) of it follows chi-squared of
B - 1 degrees (Yurdakul and Naranjo, "Statistical properties of the population stability index",
Journal of Risk Model Validation 14, 2020). What is expected of equal ones is taken off here, and
what may still come by chance is known.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import msgspec

MOST_BINS = 10
PER_BIN = 20
"""Values per bin of a reference: with fewer the tails are a matter of luck."""
FEWEST = 3 * PER_BIN
"""Values that make a reference."""

MAJOR = 0.25
"""From here on "a significant change" by convention, from 0.1 "some" (Siddiqi, "Credit Risk
Scorecards", 2005)."""

_SMOOTHING = 0.5  # added to each count: a bin that is empty in one sample says no more than that
_DIGITS = 6


class Distribution(msgspec.Struct, frozen=True):
    """How many of a sample's values lie in each bin; bin i ends with ``edges[i]``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    median: float

    def __post_init__(self) -> None:
        is_rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        is_counted = min(self.counts, default=-1) >= 0 and sum(self.counts) > 0
        if len(self.counts) != len(self.edges) + 1 or not is_rising or not is_counted:
            raise ValueError("a distribution needs rising edges, and one count more than edges")

    @property
    def total(self) -> int:
        return sum(self.counts)

    def binned(self, values: Iterable[float]) -> list[int]:
        """How many of ``values`` lie in each bin; what is no number lies in the last one."""
        counts = [0] * len(self.counts)
        for value in values:
            counts[-1 if math.isnan(value) else bisect_left(self.edges, value)] += 1
        return counts


def distribution(values: Sequence[float]) -> Distribution:
    """Bins that hold about as many of ``values`` each.

    Where values are few different ones, such as numbers of boxes, they share no bin if they can
    help it; what is (almost) always the same gets a bin of its own between two empty ones.
    """
    ranked = sorted(values)
    count = len(ranked)
    bins = max(2, min(MOST_BINS, count // PER_BIN))
    edges: list[float] = []
    for number in range(1, bins):
        edge = _edge_near(ranked, number * count // bins)
        if edge is not None and (not edges or edge > edges[-1]):
            edges.append(edge)
    if len(edges) < 2:
        edges = _around(ranked, edges)
    empty = Distribution(tuple(edges), (1,) * (len(edges) + 1), _rounded(ranked[count // 2]))
    return msgspec.structs.replace(empty, counts=tuple(empty.binned(ranked)))


def stability_index(reference: Sequence[int], counts: Sequence[int]) -> float:
    """The population stability index of two samples, counted in the same bins."""
    total = sum(counts) + _SMOOTHING * len(counts)
    reference_total = sum(reference) + _SMOOTHING * len(counts)
    index = 0.0
    for expected, count in zip(reference, counts, strict=True):
        p, q = (count + _SMOOTHING) / total, (expected + _SMOOTHING) / reference_total
        index += (p - q) * math.log(p / q)
    return index


def expected_index(bins: int, count: int, reference_count: int) -> float:
    """The mean of ``stability_index`` over samples of one distribution."""
    return (bins - 1) * (1 / count + 1 / reference_count)


def index_by_chance(bins: int, count: int, reference_count: int, chance: float) -> float:
    """What ``stability_index`` of samples of one distribution exceeds with ``chance``."""
    degrees = bins - 1
    # Wilson and Hilferty, 1931: within 1 % of the quantile from 3 degrees on.
    spread = 2 / (9 * degrees)
    z = NormalDist().inv_cdf(1 - chance)
    quantile = degrees * (1 - spread + z * math.sqrt(spread)) ** 3
    return quantile * (1 / count + 1 / reference_count)


def _edge_near(ranked: Sequence[float], at: int) -> float | None:
    """Between two different values, the first of which is that before ``at``."""
    while at < len(ranked) and ranked[at] == ranked[at - 1]:
        at += 1
    return _rounded((ranked[at - 1] + ranked[at]) / 2) if at < len(ranked) else None


def _around(ranked: Sequence[float], edges: list[float]) -> list[float]:
    """Edges outside of all values too."""
    low, high = ranked[0], ranked[-1]
    is_whole = all(value == round(value) for value in ranked)
    gap = 0.5 if is_whole else max(abs(low), abs(high)) * 0.01
    return [_rounded(low - gap), *edges, _rounded(high + gap)]


def _rounded(value: float) -> float:
    """What is written down, and the same on all machines."""
    return float(f"{value:.{_DIGITS}g}")

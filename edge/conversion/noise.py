"""Signal, noise and likeness of two forms of a tensor, summed over samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edge.core.tensor import Array

CAP_DB = 120.0
"""Of equal values, and with a minus of those that are no numbers: JSON has no infinity."""

BLOCK = 2**15
"""Values that are summed at a time: they stay in the processor's cache."""

_PICTURE_RANK = 4
"""Of tensors whose second axis counts channels."""


class NoiseSums:
    """Powers of signal, answer and noise, and their product, per channel; no values are kept."""

    def __init__(self) -> None:
        self._sums: Any = None
        self.is_comparable = True

    def add(self, expected: Array, got: Array) -> None:
        """Add one sample. Tensors of other shapes or types make all of them incomparable."""
        kinds = {expected.dtype.kind, got.dtype.kind}
        self.is_comparable &= kinds == {"f"} and expected.shape == got.shape
        if not self.is_comparable:
            return
        channels = expected.shape[1] if expected.ndim == _PICTURE_RANK else 1
        if self._sums is None:
            self._sums = np.zeros((4, channels))
        elif self._sums.shape[1] != channels:
            self._sums, channels = self._sums.sum(axis=1, keepdims=True), 1
        values = math.prod(expected.shape[2:]) if channels > 1 else expected.size
        shape = (-1, channels, values) if expected.size else (0, channels, values)
        step = max(1, BLOCK // max(1, values))
        for first, second in zip(expected.reshape(shape), got.reshape(shape), strict=True):
            for start in range(0, channels, step):
                block = slice(start, start + step)
                self._sums[:, block] += _finite_powers(
                    first[block].astype(np.float64), second[block].astype(np.float64)
                )

    @property
    def sqnr_db(self) -> float:
        """Signal to noise ratio, within ``CAP_DB``."""
        expected, _, _, noise = self._totals
        return _decibels(expected, noise)

    @property
    def cosine(self) -> float:
        """1 for equal directions, 0 where one of them is none."""
        expected, got, product, noise = self._totals
        return _cosine(expected, got, product) if noise else 1.0

    @property
    def scaled_sqnr_db(self) -> float:
        """The ratio that is left once each channel of the answer has the factor that fits best."""
        expected = self._totals[0]
        return _decibels(expected, max(0.0, expected - self._explained))

    @property
    def scaled_cosine(self) -> float:
        return _cosine(self._totals[0], self._explained, self._explained)

    @property
    def _totals(self) -> list[float]:
        return [0.0] * 4 if self._sums is None else [float(v) for v in self._sums.sum(axis=1)]

    @property
    def _explained(self) -> float:
        """Power of the signal that lies in the direction of the answer, channel by channel."""
        if self._sums is None:
            return 0.0
        _, got, product, _ = self._sums
        with np.errstate(all="ignore"):
            return float(np.where(got > 0, product**2 / got, 0.0).sum())


def _finite_powers(expected: Array, got: Array) -> Array:
    """Powers by row. Equal infinities are no error, as in masks; a NaN in one of them is."""
    with np.errstate(all="ignore"):
        powers = _powers(expected, got)
        if not np.isfinite(powers).all():
            same = (expected == got) | (np.isnan(expected) & np.isnan(got))
            broken = same & ~np.isfinite(expected)
            powers = _powers(np.where(broken, 0, expected), np.where(broken, 0, got))
    return powers


def _powers(expected: Array, got: Array) -> Array:
    """``einsum`` and not ``@``: its products are not BLAS's, whose threads wait for those of the
    engine (20 times as long on two cores)."""
    noise = got - expected
    pairs = ((expected, expected), (got, got), (expected, got), (noise, noise))
    return np.array([np.einsum("ij,ij->i", first, second) for first, second in pairs])


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return CAP_DB
    if not math.isfinite(noise) or signal == 0:
        return -CAP_DB
    return max(-CAP_DB, min(CAP_DB, 10 * math.log10(signal / noise)))


def _cosine(expected: float, got: float, product: float) -> float:
    length = math.sqrt(expected) * math.sqrt(got)
    cosine = product / length if length else 0.0
    return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else 0.0

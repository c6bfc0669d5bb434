"""How far two models say the same, and how often a model is right; one example at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edge.core.errors import ModelError
from edge.vision.boxes import corners, iou
from edge.vision.geometry import OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.core.spec import Task
    from edge.core.tensor import Array
    from edge.vision.predictions import Box, Label, Mask

IOU_THRESHOLD = 0.5

TOLERANCE = 0.01
"""Of an output's range over all examples. INT8 outputs step by 1/255 of it: two and a half steps
off still agree, whereas a share of each single value would condemn all values near 0."""


class Agreement(Protocol):
    """Adds up what a reference and another model answer to the same examples."""

    def add(self, reference: Any, other: Any) -> None:
        """Take in one example: predictions of the task, or outputs for ``tensors``."""
        ...

    @property
    def value(self) -> float | None:
        """0..1; None when there was nothing to compare."""
        ...


def agreement_for(task: Task) -> Agreement:
    """An empty measure of agreement for ``task``."""
    return _MEASURES[task]()


class SameTop1:
    """Share of examples whose best label is the same."""

    def __init__(self) -> None:
        self._same = 0
        self._count = 0

    def add(self, reference: Sequence[Label], other: Sequence[Label]) -> None:
        self._same += reference[0].index == other[0].index
        self._count += 1

    @property
    def value(self) -> float | None:
        return self._same / self._count if self._count else None


class BoxF1:
    """F1 of boxes over all examples together: a match has the same class and IoU of 0.5."""

    def __init__(self) -> None:
        self._matches = 0
        self._boxes = 0

    def add(self, reference: Sequence[Box], other: Sequence[Box]) -> None:
        self._matches += matched(reference, other)
        self._boxes += len(reference) + len(other)

    @property
    def value(self) -> float | None:
        return 2 * self._matches / self._boxes if self._boxes else None


class MaskIou:
    """Mean over classes of the IoU of their pixels in all examples together.

    Counts the classes that either model sees; pixels that a mask does not cover are left out.
    """

    def __init__(self) -> None:
        self._pixels = np.zeros((0, 0), np.int64)

    def add(self, reference: Mask, other: Mask) -> None:
        one, two = reference.to_array(), other.to_array()
        if one.shape != two.shape:
            raise ModelError(f"masks differ in size: {one.shape} and {two.shape}")
        seen = (one != OUTSIDE) & (two != OUTSIDE)
        self._grow(1 + max(one.max(initial=0), two.max(initial=0)))
        classes = len(self._pixels)
        pairs = one[seen].astype(np.int64) * classes + two[seen]
        self._pixels += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    @property
    def value(self) -> float | None:
        shared = self._pixels.diagonal()
        either = self._pixels.sum(axis=0) + self._pixels.sum(axis=1) - shared
        present = either > 0
        return float(np.mean(shared[present] / either[present])) if present.any() else None

    def _grow(self, classes: int) -> None:
        missing = max(0, classes - len(self._pixels))
        self._pixels = np.pad(self._pixels, (0, missing))


class WithinTolerance:
    """Share of all elements that differ by at most ``TOLERANCE`` of their output's range."""

    def __init__(self) -> None:
        self._outputs: dict[str, _Differences] = {}

    def add(self, reference: Mapping[str, Array], other: Mapping[str, Array]) -> None:
        for name, array in reference.items():
            if name not in other or other[name].shape != array.shape:
                given = other[name].shape if name in other else "nothing"
                raise ModelError(f"output {name!r} must have shape {array.shape}, got {given}")
            self._outputs.setdefault(name, _Differences()).add(array, other[name])

    @property
    def value(self) -> float | None:
        count = sum(each.count for each in self._outputs.values())
        return sum(each.within for each in self._outputs.values()) / count if count else None


class _Differences:
    """A histogram of one output's differences: what they are held against is known at the end.

    Bins are 1/64 of an octave wide, so that the tolerance is met to within 1.6 %.
    """

    BINS = 64
    OCTAVES = 64  # above and below 1; what is smaller counts as equal, what is larger as infinite

    def __init__(self) -> None:
        self._counts = np.zeros(2 * self.OCTAVES * self.BINS, np.int64)
        self._low = np.inf
        self._high = -np.inf

    def add(self, reference: Array, other: Array) -> None:
        if reference.dtype.kind not in "biuf" or not reference.size:
            raise ModelError(
                f"can not compare {reference.dtype} {reference.shape} with a tolerance"
            )
        one, two = reference.astype(np.float64), other.astype(np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.where(one == two, 0.0, np.abs(one - two))
        bins = self._bin(np.nan_to_num(apart, nan=np.inf))
        self._counts += np.bincount(bins.reshape(-1), minlength=self._counts.size)
        finite = np.isfinite(one)
        self._low = float(np.min(one, initial=self._low, where=finite))
        self._high = float(np.max(one, initial=self._high, where=finite))

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    @property
    def within(self) -> int:
        # An output that is always the same has no range: its size takes the place.
        extent = self._high - self._low or abs(self._high)
        extent = extent if np.isfinite(extent) else 0.0
        last = int(self._bin(np.array(TOLERANCE * extent)))
        return int(self._counts[: last + 1].sum())

    def _bin(self, values: Array) -> Array:
        mantissa, exponent = np.frexp(np.minimum(values, 2.0**self.OCTAVES))
        steps = np.floor((mantissa - 0.5) * 2 * self.BINS).astype(np.int64)
        bins = np.where(values > 0.0, (exponent + self.OCTAVES) * self.BINS + steps, 0)
        clipped: Array = np.clip(bins, 0, self._counts.size - 1)
        return clipped


class TopAccuracy:
    """How often the right class is the best, or among the best five, in percent.

    Predictions must come from a decoder that was told ``top`` of 5 or more.
    """

    def __init__(self) -> None:
        self._hits = {1: 0, 5: 0}
        self._count = 0

    def add(self, prediction: Sequence[Label], label: int) -> None:
        found = [each.index for each in prediction[:5]]
        for best in self._hits:
            self._hits[best] += label in found[:best]
        self._count += 1

    @property
    def top1(self) -> float | None:
        return self._percent(1)

    @property
    def top5(self) -> float | None:
        return self._percent(5)

    def _percent(self, best: int) -> float | None:
        return 100.0 * self._hits[best] / self._count if self._count else None


def matched(reference: Sequence[Box], other: Sequence[Box]) -> int:
    """Number of pairs: each box of ``other``, best score first, takes the nearest one left."""
    if not reference or not other:
        return 0
    overlaps = iou(corners(other), corners(reference))
    same = np.equal.outer([box.index for box in other], [box.index for box in reference])
    overlaps[~same] = 0.0
    matches = 0
    for row in np.argsort([-box.score for box in other], kind="stable"):
        nearest = overlaps[row].argmax()
        if overlaps[row, nearest] >= IOU_THRESHOLD:
            overlaps[:, nearest] = 0.0
            matches += 1
    return matches


_MEASURES: dict[Task, type[Agreement]] = {
    "classification": SameTop1,
    "detection": BoxF1,
    "segmentation": MaskIou,
    "tensors": WithinTolerance,
}

"""What there truly was, and how much of an answer it makes right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edge.core.errors import InputError
from edge.host.health.tally import Overlap

if TYPE_CHECKING:
    from edge.core.tensor import Array
    from edge.vision import Mask

_WANTED = {"classification": "a class", "detection": "boxes", "segmentation": "a mask"}
_MOST_CLASSES = 4096  # of a mask whose model does not name its classes


class TrueBox(msgspec.Struct, frozen=True):
    """An object that there was: corners in pixels of the tensor that was sent, and its class."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: int | str


class TrueMask(msgspec.Struct, frozen=True):
    """The class of each pixel, as runs of equal pixels, row by row: what an answer's ``Mask`` is.

    Its size is that of the answer; pixels of class -1 are not looked at.
    """

    height: int
    width: int
    values: tuple[int, ...]
    lengths: tuple[int, ...]


class SeenMask(msgspec.Struct, frozen=True):
    """What a model answered, in a fraction of the memory: int16 classes, int32 lengths."""

    height: int
    width: int
    values: Array
    lengths: Array

    @classmethod
    def of(cls, mask: Mask) -> SeenMask:
        return cls(
            mask.height,
            mask.width,
            np.array(mask.values, np.int16),
            np.array(mask.lengths, np.int32),
        )

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes + self.lengths.nbytes)


Truth = int | str | Sequence[TrueBox] | TrueMask
"""A class, by index or name, or boxes, or a mask."""


class Comparison:
    """Of answers of one model with what there was.

    Args:
        labels: Names of its classes.
    """

    def __init__(self, model: str, task: str, labels: Sequence[str]) -> None:
        self._model = model
        self._task = task
        self._labels = labels

    def compare(self, answer: Any, truth: Truth, classes: int) -> Any:
        """What the tally of the task adds up.

        Args:
            answer: A class, boxes, or a ``SeenMask``.
            classes: How many there are; 0 where that is not known.
        Raises:
            InputError: There is no such class, or the truth is of another kind or size.
        """
        given = {int: "classification", str: "classification", TrueMask: "segmentation"}
        if given.get(type(truth), "detection") != self._task:
            wanted = _WANTED[self._task]
            raise InputError(f"{self._model} does {self._task}: its labels are {wanted}")
        if isinstance(truth, int | str):
            return int(self._class(truth, classes) == answer), 1
        if isinstance(truth, TrueMask):
            return self._overlap(answer, truth, classes)
        from edge.vision import Box
        from edge.vision.agreement import matched

        boxes = [
            Box(box.x0, box.y0, box.x1, box.y1, self._class(box.label, classes), "", 1.0)
            for box in truth
        ]
        return 2 * matched(boxes, answer), len(boxes) + len(answer)

    def _overlap(self, answer: SeenMask, truth: TrueMask, classes: int) -> Overlap:
        size = (answer.height, answer.width)
        if (truth.height, truth.width) != size:
            raise InputError(
                f"the mask has {truth.height} x {truth.width} pixels (height x width), what "
                f"{self._model} answered has {size[0]} x {size[1]}"
            )
        lengths = truth.lengths
        is_whole = min(lengths, default=0) > 0 and sum(lengths) == math.prod(size)
        if not is_whole or len(truth.values) != len(lengths):
            raise InputError(f"the runs of the mask do not make {size[0]} x {size[1]} pixels")
        for index in set(truth.values) - {-1}:
            self._class(index, classes or _MOST_CLASSES)
        return _overlap(_pixels(answer), _pixels(truth))

    def _class(self, label: int | str, classes: int) -> int:
        if isinstance(label, str):
            if label not in self._labels:
                names = ", ".join(self._labels[:5])
                raise InputError(
                    f"{self._model} knows no class {label[:80]!r}",
                    hint=f"its classes are {names}, …" if names else "give the class's index",
                )
            return self._labels.index(label)
        if isinstance(label, bool) or label < 0 or (classes and label >= classes):
            last = f" to {classes - 1}" if classes else ""
            raise InputError(f"{self._model} has no class {label}: they go from 0{last}")
        return label


def _pixels(mask: SeenMask | TrueMask) -> Array:
    return np.repeat(np.array(mask.values, np.int64), mask.lengths)


def _overlap(answer: Array, truth: Array) -> Overlap:
    """Classes and pixels as in `edge.vision.agreement.MaskIou`."""
    seen = (answer >= 0) & (truth >= 0)
    answer, truth = answer[seen], truth[seen]
    count = 1 + int(max(answer.max(initial=0), truth.max(initial=0)))
    shared = np.bincount(answer[answer == truth], minlength=count)
    either = np.bincount(answer, minlength=count) + np.bincount(truth, minlength=count) - shared
    return {
        int(index): (int(shared[index]), int(either[index])) for index in np.flatnonzero(either)
    }

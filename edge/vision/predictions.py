"""What a decoded output says: labels, boxes or a mask. Plain data, ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge.core.errors import InputError
from edge.vision.geometry import OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.core.tensor import Array


class Label(msgspec.Struct, frozen=True):
    """A class and its probability."""

    index: int
    name: str
    score: float


class Box(msgspec.Struct, frozen=True):
    """An object from corner (x0, y0) to (x1, y1), in pixels of the picture."""

    x0: float
    y0: float
    x1: float
    y1: float
    index: int
    name: str
    score: float


class Region(msgspec.Struct, frozen=True):
    """A class that a mask shows, and the share of its pixels."""

    index: int
    name: str
    share: float


class Mask(msgspec.Struct, frozen=True):
    """The class of each pixel, as runs of equal pixels, row by row.

    Run i is ``lengths[i]`` pixels of class ``values[i]``; class -1 is what the model did not see.
    """

    height: int
    width: int
    regions: tuple[Region, ...]
    values: tuple[int, ...]
    lengths: tuple[int, ...]

    @classmethod
    def from_array(cls, classes: Array, names: Sequence[str]) -> Mask:
        """Pack integers (height, width); the largest region comes first."""
        flat = classes.reshape(-1)
        starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
        lengths = np.diff(starts, append=flat.size)
        found, counts = np.unique(flat, return_counts=True)
        regions = [
            Region(index, class_name(names, index), count / flat.size)
            for index, count in zip(found.tolist(), counts.tolist(), strict=True)
            if index != OUTSIDE
        ]
        return cls(
            height=classes.shape[0],
            width=classes.shape[1],
            regions=tuple(sorted(regions, key=lambda region: -region.share)),
            values=tuple(flat[starts].tolist()),
            lengths=tuple(lengths.tolist()),
        )

    def to_array(self) -> Array:
        """Unpack to int16 (height, width)."""
        flat: Array = np.repeat(np.array(self.values, np.int16), self.lengths)
        return flat.reshape(self.height, self.width)


Prediction = tuple[Label, ...] | tuple[Box, ...] | Mask
"""Labels and boxes have the highest score first."""


def class_name(names: Sequence[str], index: int) -> str:
    """The name of a class; its number where there are no names.

    Raises:
        InputError: There are names, but fewer than the model has classes.
    """
    if not names:
        return str(index)
    if index >= len(names):
        raise InputError(
            f"the model answers class {index}, the labels name {len(names)}",
            hint="give a file of labels with one class a line, in the model's order",
        )
    return names[index]

"""Which boxes of a picture to look at, and where they lie in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.core.pipelines import StepSpec
    from edge.core.tensor import Array
    from edge.vision import Box


class Region(NamedTuple):
    """Whole pixels of a picture, from (left, top) up to but without (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, picture: Array) -> Array:
        """That part of a picture (height, width, 3): a view, nothing is copied."""
        part: Array = picture[self.top : self.bottom, self.left : self.right]
        return part


def whole(picture: Array) -> Region:
    return Region(0, 0, picture.shape[1], picture.shape[0])


def around(box: Box, margin: float, picture: Array) -> Region:
    """A box to the nearest pixel, and ``margin`` of its sides more on each; at least a pixel."""
    height, width = picture.shape[:2]
    x, y = margin * (box.x1 - box.x0), margin * (box.y1 - box.y0)
    left = min(max(round(box.x0 - x), 0), width - 1)
    top = min(max(round(box.y0 - y), 0), height - 1)
    right = max(min(round(box.x1 + x), width), left + 1)
    bottom = max(min(round(box.y1 + y), height), top + 1)
    return Region(left, top, right, bottom)


def chosen(boxes: Sequence[Box], spec: StepSpec) -> list[int]:
    """Which of the boxes, best first, a step looks at."""
    found = [
        number
        for number, box in enumerate(boxes)
        if (not spec.labels or box.name in spec.labels)
        and box.score >= spec.min_score
        and min(box.x1 - box.x0, box.y1 - box.y0) >= spec.min_side
    ]
    return found[: spec.limit]


def on_picture(boxes: tuple[Box, ...], region: Region) -> tuple[Box, ...]:
    """Boxes that were found in a region, where they lie in the whole picture."""
    left, top = region.left, region.top
    if not (left or top):
        return boxes
    return tuple(
        msgspec.structs.replace(
            box, x0=box.x0 + left, y0=box.y0 + top, x1=box.x1 + left, y1=box.y1 + top
        )
        for box in boxes
    )

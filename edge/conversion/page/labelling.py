"""Where labels of marks go, so that they cover little of each other and of the marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from edge.conversion.page import svg

HALF_HEIGHT = 7.0
"""Of a line of text, in the plots' units."""

FAR = 16.0
"""A label this much further from its mark than a neighbour's place is tied to it by a line."""


class Mark(msgspec.Struct, frozen=True):
    """A drawn mark and what to write beside it; the more important come first."""

    x: float
    y: float
    radius: float
    words: str
    class_: str = "label"


class Box(msgspec.Struct, frozen=True):
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, other: Box) -> float:
        """How far this reaches out of ``other``."""
        across = max(other.left - self.left, 0.0) + max(self.right - other.right, 0.0)
        return across + max(other.top - self.top, 0.0) + max(self.bottom - other.bottom, 0.0)


def labels(marks: Sequence[Mark], frame: Box, obstacles: Sequence[Box] = ()) -> Iterable[str]:
    """One text for each mark, where it covers least; of equal places the nearest."""
    taken = [
        *obstacles,
        *(
            Box(
                mark.x - mark.radius,
                mark.y - mark.radius,
                mark.x + mark.radius,
                mark.y + mark.radius,
            )
            for mark in marks
        ),
    ]

    def cost(box: Box) -> float:
        covered = sum(box.overlap(other) for other in taken)
        return round(covered + 1000.0 * box.outside(frame))

    for mark in marks:
        box = min(_places(mark), key=cost)
        taken.append(box)
        middle = (box.top + box.bottom) / 2
        if abs(middle - mark.y) > mark.radius + FAR:
            end = min(max(mark.x, box.left), box.right)
            edge = box.bottom if middle < mark.y else box.top
            yield svg.line(mark.x, mark.y, end, edge, "leader")
        yield svg.text(box.left, middle + 4, mark.words, class_=mark.class_)


def _places(mark: Mark) -> Iterable[Box]:
    """Beside the mark, above and below it, then further up and down."""
    width = svg.LETTER * len(mark.words)
    right, left = mark.x + mark.radius + 5, mark.x - mark.radius - 5 - width
    near = mark.radius + HALF_HEIGHT + 3
    yield _box(right, mark.y, width)
    yield _box(left, mark.y, width)
    yield _box(mark.x - width / 2, mark.y - near, width)
    yield _box(mark.x - width / 2, mark.y + near, width)
    for further in range(0, 100, 7):
        for y in (mark.y - near - further, mark.y + near + further):
            for start in (right, left, mark.x - width / 2):
                yield _box(start, y, width)


def _box(left: float, middle: float, width: float) -> Box:
    return Box(left, middle - HALF_HEIGHT, left + width, middle + HALF_HEIGHT)

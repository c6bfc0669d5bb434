"""Arithmetic on boxes: overlap, and keeping the best of those that overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from edge.vision.predictions import Box, class_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.core.tensor import Array
    from edge.vision.geometry import Geometry


class HasCorners(Protocol):
    @property
    def x0(self) -> float: ...
    @property
    def y0(self) -> float: ...
    @property
    def x1(self) -> float: ...
    @property
    def y1(self) -> float: ...


def iou(one: Array, other: Array) -> Array:
    """Intersection over union of (N, 4) with (M, 4) boxes x0 y0 x1 y1: (N, M)."""
    shared = intersection(one, other)
    union = area(one)[:, None] + area(other)[None, :] - shared
    overlap: Array = shared / np.maximum(union, np.finfo(np.float64).tiny)
    return overlap


def intersection(one: Array, other: Array) -> Array:
    """Area that (N, 4) and (M, 4) boxes share: (N, M)."""
    start = np.maximum(one[:, None, :2], other[None, :, :2])
    end = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared: Array = np.prod(np.clip(end - start, 0.0, None), axis=2)
    return shared


def corners(boxes: Sequence[HasCorners]) -> Array:
    """(N, 4) x0 y0 x1 y1."""
    listed = [(box.x0, box.y0, box.x1, box.y1) for box in boxes]
    return np.array(listed, np.float64).reshape(-1, 4)


def from_centers(rows: Array) -> Array:
    """(N, 4) x y width height, of the centre, become x0 y0 x1 y1."""
    centers, halves = rows[:, :2].astype(np.float64), rows[:, 2:4].astype(np.float64) / 2.0
    return np.concatenate((centers - halves, centers + halves), axis=1)


def suppress(boxes: Array, scores: Array, classes: Array, iou_threshold: float) -> Array:
    """Greedy non-maximum suppression within each class: indices to keep, best score first."""
    order = np.argsort(-scores, kind="stable")
    keep: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(int(best))
        overlaps = iou(boxes[best : best + 1], boxes[rest])[0] > iou_threshold
        order = rest[~(overlaps & (classes[rest] == classes[best]))]
    return np.array(keep, np.int64)


def to_picture(
    boxes: Array, scores: Array, classes: Array, geometry: Geometry, names: Sequence[str]
) -> tuple[Box, ...]:
    """Boxes in pixels of the tensor become predictions on the picture."""
    return tuple(
        Box(x0, y0, x1, y1, index, class_name(names, index), score)
        for (x0, y0, x1, y1), index, score in zip(
            geometry.boxes_to_picture(boxes).tolist(),
            classes.tolist(),
            scores.tolist(),
            strict=True,
        )
    )


def area(boxes: Array) -> Array:
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)
    product: Array = sides[:, 0] * sides[:, 1]
    return product

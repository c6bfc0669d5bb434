"""Arithmetic on boxes: overlap, and keeping the best of those that overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.vision.predictions import Box, class_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.core.tensor import Array
    from edge.vision.geometry import Geometry


def iou(one: Array, other: Array) -> Array:
    """Intersection over union of (N, 4) with (M, 4) boxes x0 y0 x1 y1: (N, M)."""
    start = np.maximum(one[:, None, :2], other[None, :, :2])
    end = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(end - start, 0.0, None), axis=2)
    union = _area(one)[:, None] + _area(other)[None, :] - shared
    overlap: Array = shared / np.maximum(union, np.finfo(np.float64).tiny)
    return overlap


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


def _area(boxes: Array) -> Array:
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)
    area: Array = sides[:, 0] * sides[:, 1]
    return area

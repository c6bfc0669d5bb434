"""YOLOX heads as exported without decoding: (1, anchors, 5 + classes) on strides 8, 16, 32."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edge.core.errors import ModelError
from edge.vision.boxes import suppress, to_picture
from edge.vision.decoding import only_output, placed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.core.spec import OutputSpec
    from edge.core.tensor import Array
    from edge.vision.geometry import Geometry, Size
    from edge.vision.predictions import Box

STRIDES = (8, 16, 32)


def decode(
    outputs: Mapping[str, Array],
    geometry: Geometry | None,
    spec: OutputSpec,
    labels: Sequence[str],
) -> tuple[Box, ...]:
    """Boxes above ``score_threshold``, the best of those that overlap within a class."""
    geometry = placed(geometry)
    rows = only_output(outputs, 3, "(1, anchors, 5 + classes)")
    cells, strides = _grid(geometry.tensor)
    if rows.shape[0] != len(cells) or rows.shape[1] < 6:
        height, width = geometry.tensor
        raise ModelError(
            f"yolox reads ({len(cells)}, 5 + classes) for a tensor of {width}x{height}, "
            f"the model gives {rows.shape}"
        )
    classes = rows[:, 5:].argmax(axis=1)
    scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]
    found = np.flatnonzero(scores > spec.score_threshold)
    centers = (rows[found, :2] + cells[found]) * strides[found]
    # A head that broke in conversion may say anything; exp must not overflow on it.
    halves = np.exp(np.minimum(rows[found, 2:4], 16.0)) * strides[found] / 2.0
    boxes = np.concatenate((centers - halves, centers + halves), axis=1)
    keep = suppress(boxes, scores[found], classes[found], spec.iou_threshold)
    kept = found[keep]
    return to_picture(boxes[keep], scores[kept], classes[kept], geometry, labels)


@cache
def _grid(size: Size) -> tuple[Array, Array]:
    """Cell (x, y) and stride of each anchor: (anchors, 2) and (anchors, 1)."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = size[0] // stride, size[1] // stride
        y, x = np.mgrid[:rows, :columns]
        cells.append(np.stack((x, y), axis=-1).reshape(-1, 2))
        strides.append(np.full((rows * columns, 1), stride))
    return np.concatenate(cells).astype(np.float64), np.concatenate(strides).astype(np.float64)


DECODER = decode

"""YOLOv8, v9 and 11 heads: (1, 4 + classes, N) or its transpose, no objectness, pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.core.errors import ModelError
from edge.vision.boxes import from_centers, suppress, to_picture
from edge.vision.decoding import only_output, placed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.core.spec import OutputSpec
    from edge.core.tensor import Array
    from edge.vision.geometry import Geometry
    from edge.vision.predictions import Box


def decode(
    outputs: Mapping[str, Array],
    geometry: Geometry | None,
    spec: OutputSpec,
    labels: Sequence[str],
) -> tuple[Box, ...]:
    """Boxes of x y width height above ``score_threshold``, the best of those that overlap."""
    rows = _rows(only_output(outputs, 3, "(1, 4 + classes, N)"), len(labels))
    classes = rows[:, 4:].argmax(axis=1)
    scores = rows[np.arange(len(rows)), 4 + classes]
    found = np.flatnonzero(scores > spec.score_threshold)
    boxes = from_centers(rows[found, :4])
    keep = suppress(boxes, scores[found], classes[found], spec.iou_threshold)
    kept = found[keep]
    return to_picture(boxes[keep], scores[kept], classes[kept], placed(geometry), labels)


def _rows(output: Array, named: int) -> Array:
    """(N, 4 + classes): the axis that the labels fit, else the shorter one, is that of a box."""
    fitting = [axis for axis in (0, 1) if named and output.shape[axis] == 4 + named]
    axis = fitting[0] if fitting else int(output.shape[1] < output.shape[0])
    if output.shape[axis] < 5:
        raise ModelError(f"yolov8 reads (4 + classes, N), the model gives {output.shape}")
    rows: Array = output.T if axis == 0 else output
    return rows


DECODER = decode

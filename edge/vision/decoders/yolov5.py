"""YOLOv5 and v7 heads with boxes decoded: (1, N, 5 + classes), x y width height in pixels."""

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
    """Boxes whose objectness times class score is above ``score_threshold``, suppressed."""
    rows = only_output(outputs, 3, "(1, N, 5 + classes)")
    if rows.shape[1] < 6:
        raise ModelError(
            f"yolov5 reads (N, 5 + classes), the model gives {rows.shape}",
            hint='heads without objectness, (1, 4 + classes, N), are decode = "yolov8"',
        )
    classes = rows[:, 5:].argmax(axis=1)
    scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]
    found = np.flatnonzero(scores > spec.score_threshold)
    boxes = from_centers(rows[found, :4])
    keep = suppress(boxes, scores[found], classes[found], spec.iou_threshold)
    kept = found[keep]
    return to_picture(boxes[keep], scores[kept], classes[kept], placed(geometry), labels)


DECODER = decode

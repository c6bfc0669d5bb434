"""SSD heads with boxes decoded: scores (1, N, classes) and boxes (1, N, 4) in 0..1, x0 y0 x1 y1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.core.errors import ModelError
from edge.vision.boxes import suppress, to_picture
from edge.vision.decoding import placed

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
    """Boxes of any class but 0, which is the background."""
    geometry = placed(geometry)
    every_score, every_box = _heads(outputs)
    anchors, classes = np.nonzero(every_score[:, 1:] > spec.score_threshold)
    classes = classes + 1
    scores = every_score[anchors, classes]
    height, width = geometry.tensor
    boxes = every_box[anchors] * np.array((width, height, width, height), np.float64)
    keep = suppress(boxes, scores, classes, spec.iou_threshold)
    return to_picture(boxes[keep], scores[keep], classes[keep], geometry, labels)


def _heads(outputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """Scores and boxes without the batch axis, told apart by name, else by the 4 of a box."""
    shapes = {name: array.shape for name, array in outputs.items()}
    fitting = len(outputs) == 2 and all(
        array.ndim == 3 and array.shape[0] == 1 for array in outputs.values()
    )
    boxes = [name for name in outputs if "box" in name.lower()] or [
        name for name, shape in shapes.items() if shape[-1] == 4
    ]
    if not fitting or len(boxes) != 1 or shapes[boxes[0]][-1] != 4:
        raise ModelError(f"ssd reads scores (1, N, classes) and boxes (1, N, 4), not {shapes}")
    (scores,) = (array for name, array in outputs.items() if name != boxes[0])
    if scores.shape[1] != shapes[boxes[0]][1] or scores.shape[2] < 2:
        raise ModelError(f"ssd reads scores (1, N, classes) and boxes (1, N, 4), not {shapes}")
    return scores[0], outputs[boxes[0]][0]


DECODER = decode

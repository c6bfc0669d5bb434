"""Boxes that the graph itself has suppressed: in one table, or as boxes, scores and classes.

Tables: (1, N, 6) x0 y0 x1 y1 score class, as YOLOv10 gives them; (1, 1, N, 7) image class score
x0 y0 x1 y1, the DetectionOutput of Caffe and OpenVINO. Else boxes (N, 4), scores (N) and classes
(N), as torchvision gives them, with or without a batch axis of 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.core.errors import ModelError
from edge.vision.boxes import to_picture
from edge.vision.decoding import placed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.core.spec import OutputSpec
    from edge.core.tensor import Array
    from edge.vision.geometry import Geometry
    from edge.vision.predictions import Box

LARGEST_SHARE = 2.0
"""Corners of boxes are shares of the tensor if none is above, pixels else: an object of fewer than
two pixels is none."""


def decode(
    outputs: Mapping[str, Array],
    geometry: Geometry | None,
    spec: OutputSpec,
    labels: Sequence[str],
) -> tuple[Box, ...]:
    """Boxes above ``score_threshold``, best first; ``iou_threshold`` has no say here."""
    geometry = placed(geometry)
    boxes, scores, classes = _table(outputs) if len(outputs) == 1 else _columns(outputs)
    found = np.flatnonzero(scores > spec.score_threshold)
    found = found[np.argsort(-scores[found], kind="stable")]
    corners = boxes[found].astype(np.float64)
    if np.abs(corners).max(initial=0.0) <= LARGEST_SHARE:
        height, width = geometry.tensor
        corners *= (width, height, width, height)
    return to_picture(corners, scores[found], classes[found].astype(np.int64), geometry, labels)


def _table(outputs: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    (table,) = outputs.values()
    rows = table.reshape(-1, table.shape[-1]) if table.ndim > 1 else table.reshape(0, 0)
    if rows.shape[1] == 6:
        return rows[:, :4], rows[:, 4], rows[:, 5]
    if rows.shape[1] == 7:
        rows = rows[np.cumprod(rows[:, 0] >= 0).astype(bool)]  # image -1 ends the list
        return rows[:, 3:], rows[:, 2], rows[:, 1]
    raise _unknown(outputs)


def _columns(outputs: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """Told apart by their shapes, types and names; a count says how many rows are filled."""
    boxes = [array for array in outputs.values() if array.ndim > 1 and array.shape[-1] == 4]
    if len(boxes) != 1:
        raise _unknown(outputs)
    corners = boxes[0].reshape(-1, 4)
    columns = {
        name: array.reshape(-1)
        for name, array in outputs.items()
        if array is not boxes[0] and array.size == len(corners) and not _is_count(name)
    }
    classes = [name for name in columns if "class" in name.lower() or "label" in name.lower()]
    classes = classes or [name for name, array in columns.items() if array.dtype.kind in "iu"]
    scores = [name for name in columns if name not in classes]
    if len(classes) != 1 or len(scores) != 1:
        raise _unknown(outputs)
    counts = [int(array.reshape(-1)[0]) for name, array in outputs.items() if _is_count(name)]
    filled = slice(counts[0] if counts else None)
    return corners[filled], columns[scores[0]][filled], columns[classes[0]][filled]


def _is_count(name: str) -> bool:
    return "num" in name.lower()


def _unknown(outputs: Mapping[str, Array]) -> ModelError:
    shapes = {name: array.shape for name, array in outputs.items()}
    return ModelError(
        "detections reads (1, N, 6), (1, 1, N, 7), or boxes (N, 4), scores (N) and classes (N); "
        f"the model gives {shapes}"
    )


DECODER = decode

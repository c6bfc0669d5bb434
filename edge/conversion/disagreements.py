"""Samples to which a variant answers otherwise than the source, with a small picture of each."""

from __future__ import annotations

import base64
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edge.conversion.report import Disagreement
from edge.core.errors import InputError
from edge.core.lazy import require
from edge.vision import load_image
from edge.vision.agreement import TOLERANCE, MaskIou, matched

if TYPE_CHECKING:
    from edge.conversion.samples import Example
    from edge.core.spec import Task
    from edge.core.tensor import Array
    from edge.vision import Box, Label, Mask

MOST = 24
NAMED = 4
"""Classes of boxes or regions that are named; the rest is counted."""

THUMBNAIL_PIXELS = 96
JPEG_QUALITY = 70

Difference = tuple[float, str, str]
"""How bad it is, what was expected, and what was given."""


class Disagreements:
    """Collects the samples on which a variant is furthest from the source, the worst first.

    Labels differ or not; boxes by how many have no match, masks by IoU, tensors by their largest
    difference as a share of the sample's largest value.
    """

    def __init__(self, task: Task) -> None:
        self._compare = _COMPARED[task]
        self._found: list[tuple[float, int, Path, Disagreement]] = []
        self._count = 0

    def add(self, example: Example, expected: Any, got: Any) -> None:
        """Take in one example with the two predictions."""
        self._count += 1
        difference = self._compare(expected, got)
        if difference is None:
            return
        badness, wanted, given = difference
        path = Path(example.source)
        # The count keeps those that are equally bad in the order in which they came.
        entry = (badness, -self._count, path, Disagreement(path.name, wanted, given))
        if len(self._found) < MOST:
            heapq.heappush(self._found, entry)
        else:
            heapq.heappushpop(self._found, entry)

    @property
    def found(self) -> tuple[Disagreement, ...]:
        return tuple(
            msgspec.structs.replace(disagreement, thumbnail=thumbnail(path))
            for _, _, path, disagreement in sorted(self._found, reverse=True)
        )


def _labels(expected: Sequence[Label], got: Sequence[Label]) -> Difference | None:
    if expected[0].index == got[0].index:
        return None
    return 1.0, expected[0].name, got[0].name


def _boxes(expected: Sequence[Box], got: Sequence[Box]) -> Difference | None:
    without = len(expected) + len(got) - 2 * matched(expected, got)
    if not without:
        return None
    return float(without), _boxes_text(expected), f"{_boxes_text(got)}; {without} without a match"


def _boxes_text(boxes: Sequence[Box]) -> str:
    if not boxes:
        return "no boxes"
    counts = Counter(box.name for box in boxes).most_common()
    named = [f"{count} {name}" if count > 1 else name for name, count in counts[:NAMED]]
    rest = len(counts) - NAMED
    listed = ", ".join([*named, f"{rest} other classes"] if rest > 0 else named)
    return f"{len(boxes)} box{'es' if len(boxes) > 1 else ''}: {listed}"


def _masks(expected: Mask, got: Mask) -> Difference | None:
    same = MaskIou()
    same.add(expected, got)
    overlap = same.value
    if overlap is None or overlap == 1.0:
        return None
    return 1.0 - overlap, _mask_text(expected), f"{_mask_text(got)}; IoU {overlap:.2f}"


def _mask_text(mask: Mask) -> str:
    regions = mask.regions[:NAMED]
    return ", ".join(f"{region.name} {100 * region.share:.0f} %" for region in regions) or "nothing"


def _tensors(expected: Mapping[str, Array], got: Mapping[str, Array]) -> Difference | None:
    worst: Difference | None = None
    for name, array in expected.items():
        want, have = array.astype(np.float64), got[name].astype(np.float64)
        if not want.size:
            continue
        apart = np.abs(want - have)
        place = np.unravel_index(int(apart.argmax()), apart.shape)
        share = float(apart[place]) / max(float(np.abs(want).max()), np.finfo(np.float32).tiny)
        if share > (worst[0] if worst else TOLERANCE):
            at = f"{name}[{', '.join(map(str, place))}]"
            off = f"{100 * share:.3g} % of the largest value off"
            worst = share, f"{at} = {want[place]:.5g}", f"{have[place]:.5g}, {off}"
    return worst


_COMPARED: dict[Task, Any] = {
    "classification": _labels,
    "detection": _boxes,
    "segmentation": _masks,
    "tensors": _tensors,
}


def thumbnail(path: Path) -> str:
    """The picture in a file as a ``data:`` URI; empty when it is none."""
    cv2 = require("cv2", extra="vision")
    try:
        picture = load_image(path)
    except InputError:
        return ""
    height, width = picture.shape[:2]
    scale = THUMBNAIL_PIXELS / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()

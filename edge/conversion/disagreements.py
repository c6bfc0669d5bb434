"""Samples to which a variant answers otherwise than the source, with a small picture of each."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.conversion.report import Disagreement
from edge.core.errors import InputError
from edge.core.lazy import require
from edge.vision import load_image

if TYPE_CHECKING:
    from edge.conversion.samples import Example
    from edge.core.spec import Task

MOST = 24
THUMBNAIL_PIXELS = 96
JPEG_QUALITY = 70


class Disagreements:
    """Collects classification samples whose best label differs from the source's."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._found: list[Disagreement] = []

    def add(self, example: Example, expected: Any, got: Any) -> None:
        """Take in one example with the two predictions."""
        if self._task != "classification" or len(self._found) == MOST:
            return
        if expected[0].index != got[0].index:
            path = Path(example.source)
            self._found.append(
                Disagreement(path.name, expected[0].name, got[0].name, thumbnail(path))
            )

    @property
    def found(self) -> tuple[Disagreement, ...]:
        return tuple(self._found)


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

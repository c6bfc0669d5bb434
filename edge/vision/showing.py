"""A tensor that a model ate, as the picture that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge.core.errors import InputError
from edge.core.lazy import require

if TYPE_CHECKING:
    from edge.core.spec import ImageSpec
    from edge.core.tensor import Array

_QUALITIES = (90, 70, 50)


class File(NamedTuple):
    """A picture as a file has it; ``kind`` is ``png`` or ``jpeg``."""

    data: bytes
    kind: str


def picture_of(tensor: Array, spec: ImageSpec) -> Array:
    """The picture in the first row of a tensor by ``spec``: uint8 BGR (height, width, 3).

    Raises:
        InputError: It is no tensor of such a picture.
    """
    row = tensor[0] if tensor.ndim == 4 else tensor
    planes = row if spec.layout == "nchw" else np.moveaxis(row, -1, 0) if row.ndim == 3 else row
    if planes.ndim != 3 or len(planes) != spec.channels:
        raise InputError(f"a tensor of {tensor.shape} holds no {spec.color} picture")
    mean, std = (np.broadcast_to(v, spec.channels)[:, None, None] for v in (spec.mean, spec.std))
    values = (planes.astype(np.float64) * std + mean) / spec.scale
    pixels = np.nan_to_num(values, nan=0.0).clip(0, 255).round().astype(np.uint8)
    if spec.color == "gray":
        pixels = np.repeat(pixels, 3, axis=0)
    if spec.color == "rgb":
        pixels = pixels[::-1]
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def encode(picture: Array, most_bytes: int) -> File:
    """As PNG, which keeps every pixel, or where that is too large as JPEG.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        InputError: It is too large even so.
    """
    cv2 = require("cv2", extra="vision")
    tries: list[tuple[str, str, list[int]]] = [("png", ".png", [])]
    tries += [("jpeg", ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality]) for quality in _QUALITIES]
    size = 0
    for kind, suffix, options in tries:
        data = cv2.imencode(suffix, picture, options)[1].tobytes()
        size = len(data)
        if size <= most_bytes:
            return File(data, kind)
    height, width = picture.shape[:2]
    raise InputError(f"a picture of {width}x{height} has {size} bytes, allowed are {most_bytes}")

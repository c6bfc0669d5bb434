"""Read a picture from a path, bytes or an array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.core.errors import InputError
from edge.core.lazy import require
from edge.vision.formats import declared_size

if TYPE_CHECKING:
    from edge.core.tensor import Array

Picture = Any
"""A path, the bytes of a picture file, or an uint8 array (height, width[, 1, 3 or 4]) BGR(A)."""

MAX_PIXELS = 2**27
"""0.4 GB once decoded: above any camera's 108 MP, far below what a crafted header can claim."""


def load_image(source: Picture) -> Array:
    """Read a picture as uint8 (height, width, 3), BGR.

    Files are turned as their EXIF orientation says; alpha is dropped, 16 bits become 8.
    An array that has the right form already is returned as it is, not copied.

    Raises:
        InputError: It is missing, empty, damaged, not a picture, or larger than ``MAX_PIXELS``.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "picture")
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"can not read picture {source}: {error.strerror}") from error
    return _decode(data, f"picture {source}")


def _decode(data: bytes, title: str) -> Array:
    if not data:
        raise InputError(f"{title} is empty: 0 bytes")
    try:
        height, width = declared_size(data)
    except ValueError as error:
        raise InputError(f"can not read {title}: {error}") from error
    _check_size(height, width, title)
    cv2 = require("cv2", extra="vision")
    try:
        image: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"can not read {title}: {error}") from error
    if image is None:
        raise InputError(f"can not read {title}: it is damaged or cut off ({len(data)} bytes)")
    return image


def _from_array(array: Array) -> Array:
    if array.dtype != np.uint8:
        raise InputError(
            f"a picture must be uint8 in 0..255, got {array.dtype}",
            hint="scale it first, e.g. (array * 255).astype('uint8')",
        )
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise InputError(
            f"a picture must have shape (height, width[, 1, 3 or 4]), got {array.shape}"
        )
    _check_size(array.shape[0], array.shape[1], "picture")
    if channels == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _check_size(height: int, width: int, title: str) -> None:
    if height < 1 or width < 1:
        raise InputError(f"{title} has no pixels: {width}x{height}")
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{title} says it has {width}x{height} pixels, at most {MAX_PIXELS} are read"
        )

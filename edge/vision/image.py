"""Read a picture from a path, bytes or an array."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.core.errors import InputError
from edge.core.lazy import require

if TYPE_CHECKING:
    from edge.core.tensor import Array

Picture = Any
"""A path, the bytes of a picture file, or an uint8 array (height, width[, 1, 3 or 4]) BGR(A)."""

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"))
"""What is taken for a picture in a folder."""

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
    cv2 = _opencv()
    try:
        image: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(
            f"can not read {title}: {error}", hint=f"at most {MAX_PIXELS:,} pixels are read"
        ) from error
    if image is None or _is_cut_off(data):
        raise InputError(
            f"can not read {title}: it is no picture, damaged or cut off ({len(data)} bytes)",
            hint=f"formats that are read: {' '.join(sorted(SUFFIXES))}",
        )
    return image


def _opencv() -> Any:
    # OpenCV bounds what a header may claim by itself; it reads the bound from here when it is
    # imported. What it finds wrong with a picture it would also print.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    return require("cv2", extra="vision")


def _is_cut_off(data: bytes) -> bool:
    """A JPEG without its end marker, which OpenCV 4 fills with grey and says nothing.

    The first half is not looked at: a thumbnail there has an end marker of its own.
    """
    return data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9", len(data) // 2) < 0


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

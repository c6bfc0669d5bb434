"""How much two frames of a video differ where they differ most."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds

BLOCK = 8
"""Side of the blocks that are compared, in pixels."""

_CHANNELS = (1, 3, 4)
_LEAST_SIDE = 2 * BLOCK
_KINDS = ("f2", "f4", "f8", "u1")
_OUTLIERS = 0.01


class Look(NamedTuple):
    """A frame as (pictures, rows, columns, channels), and the mean of each block of it.

    Only frames of one ``kind`` can be compared: the same names, types and shapes, and all other
    inputs the same bit by bit.
    """

    kind: bytes
    seen_s: float
    frame: Array
    means: Array

    @property
    def size_bytes(self) -> int:
        return self.frame.nbytes + self.means.nbytes

    def kept(self) -> Look:
        """The same with a frame of its own, that nobody else may change."""
        return self._replace(frame=self.frame.copy())

    def contrast(self) -> float:
        """What lies between the dark and the bright blocks.

        Of all but one in a hundred: a few bright ones must not make all else look alike.
        """
        low, high = np.quantile(self.means, (_OUTLIERS, 1 - _OUTLIERS))
        return float(high - low)


def difference(one: Look, other: Look, most: float) -> float | None:
    """The largest mean of absolute differences in any block of any channel; None if over ``most``.

    Noise is small in the mean of a block, and what is as large as a block can not be lost in it.
    """
    # The difference of means is never above the mean of differences, and costs a tenth of it.
    if one.kind != other.kind or not np.abs(one.means - other.means).max() <= most:
        return None
    largest = float(_block_means(_distance(one.frame, other.frame)).max())
    return largest if largest <= most else None


def look_at(feeds: Feeds) -> Look | None:
    """What to compare; None unless exactly one input is a picture, of floats or of bytes."""
    frames = {name: _as_frame(array) for name, array in feeds.items()}
    seen = [(name, frame) for name, frame in frames.items() if frame is not None]
    if len(seen) != 1:
        return None
    name, frame = seen[0]
    picture = feeds[name]
    parts = [f"{name}\0{picture.dtype.str}\0{picture.shape}".encode()]
    for key in sorted(feeds.keys() - {name}):
        other = feeds[key]
        data = repr(other.tolist()).encode() if other.dtype.hasobject else other.tobytes()
        parts += [f"{key}\0{other.dtype.str}\0{other.shape}".encode(), data]
    return Look(b"\0".join(parts), time.monotonic(), frame, _block_means(frame))


def _as_frame(array: Array) -> Array | None:
    """A view of it, if it has the shape of a picture or of several: channels first or last."""
    if array.dtype.str[1:] not in _KINDS or array.ndim not in (3, 4):
        return None
    shape = array.shape if array.ndim == 4 else (1, *array.shape)
    count, first, middle, last = shape
    if first in _CHANNELS and min(middle, last) >= _LEAST_SIDE:
        return array.reshape(count * first, middle, last, 1)
    if last in _CHANNELS and min(first, middle) >= _LEAST_SIDE:
        return array.reshape(shape)
    return None


def _distance(one: Array, other: Array) -> Array:
    if one.dtype == np.uint8:
        return np.maximum(one, other) - np.minimum(one, other)
    distance: Array = np.subtract(one, other, dtype=np.promote_types(one.dtype, np.float32))
    return np.abs(distance, out=distance)  # a second temporary of 602 KB would take 200 µs


def _block_means(frame: Array) -> Array:
    """The mean of each block; those at the right and the lower edge may be smaller."""
    wide: Any = np.uint32 if frame.dtype == np.uint8 else np.promote_types(frame.dtype, np.float32)
    count, rows, columns, channels = frame.shape
    whole = rows // BLOCK
    strips = np.empty((count, -(-rows // BLOCK), columns, channels), wide)
    body = frame[:, : whole * BLOCK].reshape(count, whole, BLOCK, columns, channels)
    body.sum(axis=2, dtype=wide, out=strips[:, :whole])
    if rows % BLOCK:
        frame[:, whole * BLOCK :].sum(axis=1, dtype=wide, out=strips[:, whole])
    sums = np.add.reduceat(strips, np.arange(0, columns, BLOCK), axis=2)
    area = np.outer(_sides(rows), _sides(columns))
    return sums / area[:, :, None].astype(np.float32)


def _sides(length: int) -> Array:
    return np.minimum(BLOCK, length - np.arange(0, length, BLOCK))

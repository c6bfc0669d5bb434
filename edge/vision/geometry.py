"""Where a picture lies in the tensor made of it, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from edge.core.tensor import Array

Size = tuple[int, int]
"""(height, width) in pixels."""

OUTSIDE = -1
"""The class of a mask's pixels that the tensor did not show (those cropped away)."""


class Geometry(msgspec.Struct, frozen=True):
    """A picture of size ``picture`` was resized to ``resized`` and laid into ``tensor``.

    ``offset`` is (top, left) of the resized picture in the tensor: positive where it was padded,
    negative where it was cropped.
    """

    picture: Size
    resized: Size
    tensor: Size
    offset: tuple[int, int] = (0, 0)

    @classmethod
    def identity(cls, size: Size) -> Geometry:
        return cls(size, size, size)

    def boxes_to_tensor(self, boxes: Array) -> Array:
        """Map (N, 4) x0 y0 x1 y1 from pixels of the picture to pixels of the tensor."""
        scale, shift = self._map()
        moved: Array = boxes * scale + shift
        return moved

    def boxes_to_picture(self, boxes: Array) -> Array:
        """Map (N, 4) x0 y0 x1 y1 from pixels of the tensor to the picture, cut at its edges."""
        scale, shift = self._map()
        height, width = self.picture
        limits = np.array((width, height, width, height), np.float64)
        moved: Array = np.clip((boxes - shift) / scale, 0.0, limits)
        return moved

    def mask_to_picture(self, mask: Array) -> Array:
        """Stretch a mask (h, w) over the tensor, of any resolution, to int16 (height, width).

        Takes the nearest value; ``OUTSIDE`` where the tensor does not show the picture.
        """
        rows, rows_seen = self._nearest(0, mask.shape[0])
        columns, columns_seen = self._nearest(1, mask.shape[1])
        stretched: Array = mask.astype(np.int16)[np.ix_(rows, columns)]
        stretched[~rows_seen] = OUTSIDE
        stretched[:, ~columns_seen] = OUTSIDE
        return stretched

    def _nearest(self, axis: int, cells: int) -> tuple[Array, Array]:
        """For each pixel of the picture along ``axis``: the cell it falls in, and if it does."""
        pixels = np.arange(self.picture[axis]) + 0.5
        scale = self.resized[axis] / self.picture[axis]
        at = (pixels * scale + self.offset[axis]) * (cells / self.tensor[axis])
        found = np.floor(at).astype(np.int64)
        return np.clip(found, 0, cells - 1), (found >= 0) & (found < cells)

    def _map(self) -> tuple[Array, Array]:
        y, x = (self.resized[axis] / self.picture[axis] for axis in (0, 1))
        top, left = self.offset
        return np.array((x, y, x, y)), np.array((left, top, left, top), np.float64)

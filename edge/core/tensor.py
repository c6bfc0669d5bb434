"""What a tensor must look like, and the check of an array against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Feeds = Mapping[str, Array]

Dim = int | str
"""A fixed size, or the name of a dynamic axis such as ``"batch"``."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, numpy dtype name (``float32``; ``string`` for text) and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    @property
    def is_static(self) -> bool:
        return all(isinstance(dim, int) for dim in self.shape)

    def check(self, array: Array) -> None:
        """Raise ``InputError`` unless dtype, rank and fixed dimensions of ``array`` fit."""
        given = "string" if array.dtype.kind in "OSU" else array.dtype.name
        if given != self.dtype:
            raise InputError(
                f"tensor {self.name!r} must be {self.dtype}, got {given}",
                hint=f"convert it first, e.g. array.astype({self.dtype!r})",
            )
        fits = len(array.shape) == len(self.shape) and all(
            isinstance(want, str) or want == have
            for want, have in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"tensor {self.name!r} must have shape {self.shape_text}, "
                f"got ({', '.join(map(str, array.shape))})"
            )

    @property
    def shape_text(self) -> str:
        return f"({', '.join(map(str, self.shape))})"


def check_feeds(specs: tuple[TensorSpec, ...], feeds: Feeds) -> None:
    """Raise ``InputError`` unless ``feeds`` holds exactly the tensors of ``specs``."""
    for spec in specs:
        array = feeds.get(spec.name)
        if array is None:
            raise InputError(
                f"input {spec.name!r} is missing; given: {sorted(feeds) or 'nothing'}",
                hint=f"the model takes {', '.join(s.name for s in specs)}",
            )
        spec.check(array)
    if len(feeds) != len(specs):
        unknown = sorted(set(feeds) - {spec.name for spec in specs})
        raise InputError(
            f"unknown input {', '.join(map(repr, unknown))}",
            hint=f"the model takes {', '.join(s.name for s in specs)}",
        )

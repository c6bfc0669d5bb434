"""What a tensor must look like, and the check of an array against it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Feeds = Mapping[str, Array]
    Kind = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]

Dim = int | str
"""A fixed size, or the name of a dynamic axis such as ``"batch"``."""

_TEXT = "string"
_TEXT_KINDS = "OSU"


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, numpy dtype name (``float32``; ``string`` for text) and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    @property
    def is_static(self) -> bool:
        return all(isinstance(dim, int) for dim in self.shape)

    @property
    def shape_text(self) -> str:
        return f"({', '.join(map(str, self.shape))})"

    def check(self, array: Array) -> None:
        """Raise ``InputError`` unless dtype, rank and fixed dimensions of ``array`` fit."""
        # Most arrays leave through these two comparisons: 0.2 µs, every inference pays for them.
        if getattr(array, "dtype", None) is not _native(self.dtype):
            self._check_dtype(array)
        if array.shape != self.shape:
            self._check_shape(array.shape)

    def _check_dtype(self, array: Array) -> None:
        import numpy as np

        if not isinstance(array, np.ndarray):
            raise InputError(
                f"tensor {self.name!r} must be a numpy array, got {type(array).__name__}",
                hint=f"convert it first, e.g. numpy.asarray(values, {self.dtype!r})",
            )
        given = _TEXT if array.dtype.kind in _TEXT_KINDS else array.dtype.name
        if given != self.dtype:
            raise InputError(
                f"tensor {self.name!r} must be {self.dtype}, got {given}",
                hint=f"convert it first, e.g. array.astype({self.dtype!r})",
            )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        fits = len(shape) == len(self.shape)
        for want, have in zip(self.shape, shape, strict=False):
            fits = fits and (want == have or isinstance(want, str))
        if not fits:
            raise InputError(
                f"tensor {self.name!r} must have shape {self.shape_text}, "
                f"got ({', '.join(map(str, shape))})"
            )


def check_feeds(specs: tuple[TensorSpec, ...], feeds: Feeds) -> None:
    """Raise ``InputError`` unless ``feeds`` holds exactly the tensors of ``specs``."""
    if not hasattr(feeds, "keys"):
        raise InputError(
            f"inputs must be a dict of arrays by name, got {type(feeds).__name__}",
            hint=f"the model takes {_names(specs)}",
        )
    for spec in specs:
        array = feeds.get(spec.name)
        if array is None:
            raise InputError(
                f"input {spec.name!r} is missing; given: {sorted(feeds) or 'nothing'}",
                hint=f"the model takes {_names(specs)}",
            )
        spec.check(array)
    if len(feeds) != len(specs):
        unknown = [name for name in feeds if name not in {spec.name for spec in specs}]
        raise InputError(
            f"unknown input {', '.join(map(repr, unknown))}",
            hint=f"the model takes {_names(specs)}",
        )


def plain(feeds: Feeds) -> dict[str, Array]:
    """``feeds`` as any engine reads them: a dict of C-contiguous arrays in native byte order."""
    import numpy as np

    for array in feeds.values():
        flags = array.flags
        if not (flags.c_contiguous and flags.aligned and array.dtype.isnative):
            return {
                name: np.require(array, array.dtype.newbyteorder("="), ("C", "A"))
                for name, array in feeds.items()
            }
    return feeds if type(feeds) is dict else dict(feeds)


def kind_of(feeds: Feeds) -> Kind:
    """Name, dtype and shape of each array: what ``alike`` compares."""
    return tuple((name, array.dtype, array.shape) for name, array in feeds.items())


def alike(feeds: Feeds, kind: Kind | None) -> bool:
    """Whether ``feeds`` is a dict of ``kind``, and ``plain`` as it is; False when in doubt."""
    if kind is None or type(feeds) is not dict or len(feeds) != len(kind):
        return False
    for name, dtype, shape in kind:
        array: Any = feeds.get(name)
        # numpy keeps one dtype object for each number type, in native byte order.
        if getattr(array, "dtype", None) is not dtype or array.shape != shape:
            return False
        flags = array.flags
        if not (flags.c_contiguous and flags.aligned):
            return False
    return True


@cache
def _native(dtype: str) -> Any:
    """The numpy dtype of this name, which is one object for all arrays; None where it has none."""
    import numpy as np

    try:
        return None if dtype == _TEXT else np.dtype(dtype)
    except TypeError:  # bfloat16 and its like, unless ml_dtypes was imported
        return None


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(spec.name for spec in specs)

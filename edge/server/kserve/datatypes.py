"""Element types by their KServe names, and tensors as the protocol's raw bytes."""

from __future__ import annotations

import functools
import struct
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.core.errors import InputError
from edge.core.lazy import require

if TYPE_CHECKING:
    from edge.core.tensor import Array

TEXT = "string"
_KSERVE = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    TEXT: "BYTES",
}
_LENGTH = struct.Struct("<I")
_COPY_BELOW_BYTES = 4096  # a small copy is cheaper than one more buffer to write


def datatype_of(dtype: str) -> str:
    """KServe's name of a ``TensorSpec.dtype``; in capitals where KServe has none."""
    return _KSERVE.get(dtype, dtype.upper())


@functools.cache
def dtype_of(dtype: np.dtype[Any]) -> str:
    """The ``TensorSpec.dtype`` of a numpy type."""
    return TEXT if dtype.kind in "OSU" else dtype.name


@functools.cache
def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy type of a ``TensorSpec.dtype`` other than text; all targets are little-endian.

    Raises:
        MissingDependencyError: It is bfloat16, which numpy knows only through ``ml_dtypes``.
    """
    if dtype == "bfloat16":
        dtype = require("ml_dtypes", extra="convert").bfloat16
    kind: np.dtype[Any] = np.dtype(dtype)
    return kind


def tensor_from_bytes(name: str, dtype: str, shape: tuple[int, ...], data: Array) -> Array:
    """The tensor that lies in ``data`` (uint8, one axis), as a view that may not be aligned.

    Raises:
        InputError: ``data`` is not as long as ``shape`` needs, or holds what ``dtype`` can't.
    """
    if dtype == TEXT:
        return shaped(name, _texts(name, prod(shape), data.tobytes()), shape)
    kind = numpy_dtype(dtype)
    expected = prod(shape) * kind.itemsize
    if len(data) != expected:
        raise InputError(
            f"input {name!r} of shape {list(shape)} takes {expected} bytes, got {len(data)}"
        )
    if dtype == "bool" and expected and data.max() > 1:
        raise InputError(f"input {name!r} is BOOL and holds a byte that is neither 0 nor 1")
    return shaped(name, data.view(kind), shape)


def shaped(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """``array`` in ``shape``, which has as many elements.

    Raises:
        InputError: numpy knows no such rank or dimension.
    """
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise InputError(f"input {name!r} can not have the shape {list(shape)}") from error


def bytes_from_tensor(array: Array) -> bytes | memoryview:
    """The raw bytes of a tensor: a view of it if it is large, numeric and contiguous."""
    if dtype_of(array.dtype) == TEXT:
        encoded = [text_bytes(element) for element in array.ravel().tolist()]
        return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))
    if array.nbytes < _COPY_BELOW_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def text_bytes(element: Any) -> bytes:
    """One element of a text tensor; engines give ``str``, some give ``bytes``."""
    return element if isinstance(element, bytes) else str(element).encode()


def text_array(texts: list[str]) -> Array:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _texts(name: str, count: int, data: bytes) -> Array:
    """Elements of BYTES, each a length in four bytes and UTF-8: engines take text, not bytes."""
    texts: list[str] = []
    offset = 0
    while offset < len(data):
        start = offset + _LENGTH.size
        if start > len(data):
            raise InputError(f"input {name!r} ends within the length of element {len(texts)}")
        offset = start + int(_LENGTH.unpack_from(data, offset)[0])
        if offset > len(data):
            raise InputError(
                f"input {name!r}: element {len(texts)} takes {offset - start} bytes, "
                f"only {len(data) - start} are left"
            )
        texts.append(decode_text(name, len(texts), data[start:offset]))
    if len(texts) != count:
        raise InputError(f"input {name!r} takes {count} elements, got {len(texts)}")
    return text_array(texts)


def decode_text(name: str, index: int, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"input {name!r}: element {index} is not UTF-8: {error}") from error

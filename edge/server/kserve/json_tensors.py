"""Tensors as JSON arrays, flat or nested."""

from __future__ import annotations

import functools
import re
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from edge.core.errors import InputError, UnsupportedError
from edge.server.kserve.datatypes import (
    TEXT,
    datatype_of,
    dtype_of,
    numpy_dtype,
    shaped,
    text_array,
    text_bytes,
)

if TYPE_CHECKING:
    from edge.core.tensor import Array

_NESTED = re.compile(rb"\s*\[\s*\[")
_MAX_RANK = 32  # of numpy before 2.0


def tensor_from_json(name: str, dtype: str, shape: tuple[int, ...], data: msgspec.Raw) -> Array:
    """The tensor that ``data`` spells out.

    Raises:
        InputError: Its elements are not of ``dtype``, or it has other dimensions than ``shape``.
    """
    is_nested = _NESTED.match(memoryview(data)) is not None
    depth = len(shape) if is_nested else 1
    if depth > _MAX_RANK or depth == 0:
        raise InputError(f"input {name!r} can not have the shape {list(shape)}")
    try:
        values = _decoder(dtype, depth).decode(data)
        with np.errstate(over="raise"):
            array = _array(values, dtype, is_nested=is_nested)
    except (ValueError, ArithmeticError) as error:  # msgspec's are ValueErrors, too
        raise InputError(f"input {name!r} does not hold {datatype_of(dtype)}: {error}") from error
    if is_nested and array.shape != shape:
        raise InputError(f"input {name!r} has shape {list(shape)}, its data {list(array.shape)}")
    if array.size != prod(shape):
        raise InputError(f"input {name!r} takes {prod(shape)} elements, got {array.size}")
    return shaped(name, array, shape)


def json_from_tensor(name: str, array: Array) -> list[Any]:
    """The elements of an output in row-major order.

    Raises:
        InputError: JSON can't hold them: they are not finite, or no UTF-8.
    """
    dtype = dtype_of(array.dtype)
    flat = array.ravel()
    if dtype == TEXT:
        try:
            return [text_bytes(element).decode() for element in flat.tolist()]
        except UnicodeDecodeError as error:
            raise _not_json(name, "bytes that are not UTF-8") from error
    if dtype == "bfloat16":
        flat = flat.astype(np.float32)
    if flat.dtype.kind in "fc" and not np.isfinite(flat).all():
        raise _not_json(name, "NaN or infinity")
    values: list[Any] = flat.tolist()
    return values


def _not_json(name: str, what: str) -> InputError:
    return InputError(
        f"output {name!r} holds {what}, which JSON can not carry",
        hint="ask for it with binary_data",
    )


def _array(values: list[Any], dtype: str, *, is_nested: bool) -> Array:
    if dtype != TEXT:
        return np.array(values, dtype=numpy_dtype(dtype))
    return np.array(values, dtype=object) if is_nested else text_array(values)


@functools.cache
def _decoder(dtype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any = _element(dtype)
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _element(dtype: str) -> Any:
    if dtype == TEXT:
        return str
    if dtype == "bool":
        return bool | Annotated[int, msgspec.Meta(ge=0, le=1)]
    if dtype.startswith(("float", "bfloat")):
        return float
    if dtype == "uint64":  # msgspec compares with signed 64 bits at most; numpy checks the rest
        return Annotated[int, msgspec.Meta(ge=0)]
    if dtype.startswith(("int", "uint")):
        limits = np.iinfo(dtype)
        return Annotated[int, msgspec.Meta(ge=int(limits.min), le=int(limits.max))]
    raise UnsupportedError(f"{datatype_of(dtype)} can not be sent as JSON")

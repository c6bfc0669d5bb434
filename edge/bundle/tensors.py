"""Named arrays in an npz file: the same arrays give the same bytes, and no file is trusted."""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from edge.bundle import archive
from edge.core.durable import replacing
from edge.core.errors import InputError

if TYPE_CHECKING:
    from edge.core.tensor import Array

LIMIT_BYTES = 2 * 1024**3
_KINDS = "biufcSU"  # numpy's kinds that are plain bytes: no objects, so no pickle
_HEADER_BYTES = 10_000
# numpy writes exactly this. Its reader takes any Python literal and fails on hostile ones in as
# many ways as Python's parser has.
_HEADER = re.compile(
    rf"\{{'descr': '(?P<descr>[<>|=]?[{_KINDS}]\d{{1,6}})', "
    r"'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>[\d, ]*)\),? *\}\s*",
    re.ASCII,
)
_READ_BYTES = 1024 * 1024
# What zipfile is known to raise on files that are damaged or made to harm.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, KeyError),
    *(TypeError, RuntimeError, OverflowError, MemoryError, IndexError),
)


def save_tensors(path: Path, arrays: Mapping[str, Array]) -> Path:
    """Write ``arrays`` so that ``numpy.load`` reads them; uncompressed, without times.

    Raises:
        InputError: An array is of a type that only pickle could write.
    """
    contents = [(f"{name}.npy", _npy(name, arrays[name])) for name in sorted(arrays)]
    entries = [archive.Entry(name, len(data), zlib.crc32(data)) for name, data in contents]
    with replacing(path) as stream:
        for entry, (_, data) in zip(entries, contents, strict=True):
            stream.write(archive.local_header(entry) + data)
        stream.write(archive.directory(entries))
    return path


def read_tensors(
    source: bytes | str | os.PathLike[str], *, limit_bytes: int = LIMIT_BYTES
) -> dict[str, Array]:
    """Read an npz file, compressed or not, by name; the arrays are the caller's.

    Args:
        limit_bytes: What all arrays together may take; checked before memory is.
    Raises:
        InputError: The file is damaged, holds Python objects, or more than the limit.
    """
    title = "npz data" if isinstance(source, bytes) else str(source)
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as npz:
            return _read_members(npz, limit_bytes)
    except InputError as error:
        raise InputError(f"{title}: {error}", hint=error.hint) from error
    except _DAMAGE as error:
        raise InputError(
            f"{title} can not be read: {error}", hint="it must be a file that numpy.savez writes"
        ) from error


def _read_members(npz: zipfile.ZipFile, limit_bytes: int) -> dict[str, Array]:
    members = npz.infolist()
    total = sum(member.file_size for member in members)
    if total > limit_bytes:
        raise InputError(f"its arrays claim {total:,} bytes, at most {limit_bytes:,} may be read")
    arrays = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name == member.filename or name in arrays:
            raise InputError(f"{member.filename!r} is there twice or is no array")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"array {name!r} is compressed in a way that numpy does not write")
        with npz.open(member) as stream:
            arrays[name] = _read_array(name, stream, member.file_size)
    return arrays


def _read_array(name: str, stream: IO[bytes], size_bytes: int) -> Array:
    import numpy as np

    header, header_bytes = _read_header(stream)
    match = _HEADER.fullmatch(header)
    if not match:
        raise InputError(
            f"array {name!r} holds something else than numbers or text: {header.strip()[:80]}",
            hint="save plain arrays; Python objects are never read",
        )
    dtype = np.dtype(match["descr"])
    shape = tuple(int(dim) for dim in match["shape"].replace(",", " ").split())
    claim, left = math.prod(shape) * dtype.itemsize, size_bytes - header_bytes
    if claim != left:
        raise InputError(f"array {name!r} claims {claim:,} bytes, the file holds {left:,}")
    order: Literal["F", "C"] = "F" if match["fortran"] == "True" else "C"
    array: Array = np.ndarray(shape, dtype, buffer=_read_all(stream, left), order=order)
    return array


def _read_header(stream: IO[bytes]) -> tuple[str, int]:
    """The text of a .npy header, and how many bytes precede the array."""
    start = stream.read(8)
    width = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4}.get(start)
    if width is None:
        raise InputError(f"an array starts with {start!r}, which is no .npy header")
    size = int.from_bytes(stream.read(width), "little")
    if size > _HEADER_BYTES:
        raise InputError(f"an array claims a header of {size:,} bytes")
    return stream.read(size).decode("latin-1"), 8 + width + size


def _read_all(stream: IO[bytes], size_bytes: int) -> bytearray:
    """Read to the end, where the checksum is checked; memory grows with what really comes."""
    buffer = bytearray()
    while chunk := stream.read(_READ_BYTES):
        buffer += chunk
    if len(buffer) != size_bytes:
        raise InputError(f"an array ends after {len(buffer):,} of {size_bytes:,} bytes")
    return buffer


def _npy(name: str, array: Array) -> bytes:
    """The .npy form, version 1.0. Not numpy's writer: its padding differs between releases."""
    import numpy as np

    array = np.asarray(array)
    if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
        array = array.astype(np.str_)
    if array.dtype.kind not in _KINDS:
        raise InputError(f"array {name!r} holds {array.dtype}, not numbers or text")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    fields: dict[str, Any] = {"descr": array.dtype.str, "fortran_order": False}
    header = repr({**fields, "shape": array.shape}).encode("latin-1")
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + array.tobytes()

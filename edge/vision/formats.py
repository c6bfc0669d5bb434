"""Picture files by their first bytes: which ones are read, and how large they say they are."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"))

_JPEG_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NETPBM = re.compile(rb"P[2356](?:\s+(?:#[^\n]*\n)?)+(\d{1,9})(?:\s+(?:#[^\n]*\n)?)+(\d{1,9})\s")


def declared_size(data: bytes) -> tuple[int, int]:
    """(height, width) as the header says, before anything is decoded.

    Raises:
        ValueError: The bytes are none of the formats in ``SUFFIXES``, or end too soon.
    """
    for magic, read in _READERS:
        if data.startswith(magic):
            try:
                return read(data)
            except (struct.error, IndexError) as error:
                raise ValueError("it ends inside its header") from error
    raise ValueError("it is no JPEG, PNG, WebP, BMP, TIFF, PPM or PGM")


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _bmp(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    raise ValueError("it is a RIFF file, but no WebP picture")


def _jpeg(data: bytes) -> tuple[int, int]:
    """Walk the segments to the frame header; ITU-T T.81, annex B."""
    at, size = 2, None
    while True:
        while data[at + 1] == 0xFF:
            at += 1
        marker = data[at + 1]
        at += 2
        if marker in _JPEG_STANDALONE:
            continue
        if marker in _JPEG_FRAMES:
            size = struct.unpack_from(">HH", data, at + 3)
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", data, at)
        at += max(length, 2)
    # OpenCV 4 fills what is missing with grey and says nothing.
    if data.rfind(b"\xff\xd9", at) < 0:
        raise ValueError("it ends before the picture does")
    if size is None:
        raise ValueError("its JPEG frame header is missing")
    return size[0], size[1]


def _tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    found: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (256, 257):
            form = "H" if kind == 3 else "I"
            (found[tag],) = struct.unpack_from(f"{order}{form}", data, entry + 8)
    if len(found) != 2:
        raise ValueError("its TIFF directory has no size")
    return found[257], found[256]


def _netpbm(data: bytes) -> tuple[int, int]:
    match = _NETPBM.match(data[:4096])
    if match is None:
        raise ValueError("it is no JPEG, PNG, WebP, BMP, TIFF, PPM or PGM")
    return int(match[2]), int(match[1])


_READERS: tuple[tuple[bytes, Callable[[bytes], tuple[int, int]]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"RIFF", _webp),
    (b"BM", _bmp),
    (b"II*\x00", _tiff),
    (b"MM\x00*", _tiff),
    (b"P", _netpbm),
)

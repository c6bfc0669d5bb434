"""The one ZIP layout of a bundle: stored, fixed times and attributes, nothing beside it.

A list of entries decides every byte outside their contents. The writer produces those bytes and
the reader compares with them, so that no header of a bundle can be altered without being noticed.
Format: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3 (ZIP64, only where a number needs it).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Sequence

import msgspec

from edge.core.errors import BundleError

MAX_ENTRIES = 10_000
MAX_DIRECTORY_BYTES = 4 * 1024 * 1024

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_UNIX, _STORED = 3, 0
_ENCRYPTED, _UTF8 = 1, 1 << 11
_VERSION, _VERSION_64 = 20, 45
_MIDNIGHT, _DATE = 0, 1 << 5 | 1  # 1980-01-01, the first that ZIP can hold
_ATTRIBUTES = (stat.S_IFREG | 0o644) << 16
_FULL = 0xFFFFFFFF  # in a 32-bit field: the number is in the ZIP64 extra field
_REPACK = "bundles are written by `edge convert`; an archive that was packed anew is refused"


class Entry(msgspec.Struct, frozen=True):
    """One file of the archive."""

    name: str
    size_bytes: int
    crc32: int


class Located(msgspec.Struct, frozen=True):
    """An entry and where its contents start in the file."""

    entry: Entry
    offset: int


def local_header(entry: Entry) -> bytes:
    """What precedes the contents of ``entry``."""
    wide = [entry.size_bytes] * 2 if entry.size_bytes >= _FULL else []
    extra = _extra(wide)
    return (
        _LOCAL.pack(b"PK\3\4", *_shared_fields(entry, wide), len(extra))
        + entry.name.encode()
        + extra
    )


def locate(entries: Sequence[Entry]) -> Iterator[Located]:
    """Where the contents of each entry start."""
    offset = 0
    for entry in entries:
        offset += len(local_header(entry))
        yield Located(entry, offset)
        offset += entry.size_bytes


def directory(entries: Sequence[Entry]) -> bytes:
    """What follows the contents of the last entry."""
    records = []
    end = 0
    for located in locate(entries):
        start = located.offset - len(local_header(located.entry))
        records.append(_central_record(located.entry, start))
        end = located.offset + located.entry.size_bytes
    central = b"".join(records)
    return central + _end_records(len(records), len(central), end)


def _central_record(entry: Entry, start: int) -> bytes:
    wide = [entry.size_bytes] * 2 if entry.size_bytes >= _FULL else []
    wide += [start] if start >= _FULL else []
    extra = _extra(wide)
    shared = _shared_fields(entry, wide)
    made_by = _UNIX << 8 | shared[0]
    no_comment_disk_flags = (0, 0, 0)
    last = (len(extra), *no_comment_disk_flags, _ATTRIBUTES, min(start, _FULL))
    return _CENTRAL.pack(b"PK\1\2", made_by, *shared, *last) + entry.name.encode() + extra


def _shared_fields(entry: Entry, wide: list[int]) -> tuple[int, ...]:
    """What the header of an entry and its record in the directory both say."""
    name = entry.name.encode()
    size = min(entry.size_bytes, _FULL)
    how = (_VERSION_64 if wide else _VERSION, 0 if name.isascii() else _UTF8, _STORED)
    return (*how, _MIDNIGHT, _DATE, entry.crc32, size, size, len(name))


def _extra(wide: list[int]) -> bytes:
    return struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""


def _end_records(count: int, size: int, offset: int) -> bytes:
    wide = b""
    if offset >= _FULL:
        version = _UNIX << 8 | _VERSION_64
        counts = (count, count, size, offset)
        wide = _END_64.pack(b"PK\6\6", _END_64.size - 12, version, _VERSION_64, 0, 0, *counts)
        wide += _LOCATOR_64.pack(b"PK\6\7", 0, offset + size, 1)
    return wide + _END.pack(b"PK\5\6", 0, 0, count, count, size, min(offset, _FULL), 0)


def read_exactly(descriptor: int, size: int, offset: int) -> bytes:
    """Read ``size`` bytes at ``offset``, or raise ``BundleError`` if the file ends before."""
    parts = []
    while size > 0:
        part = os.pread(descriptor, size, offset)
        if not part:
            raise BundleError(f"the file ends at byte {offset}, inside of its contents")
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def read_directory(descriptor: int) -> list[Located]:
    """Find the entries of an open archive and check every byte outside of their contents.

    Raises:
        BundleError: This is no archive, or none that ``local_header`` and ``directory`` make.
    """
    file_size = os.fstat(descriptor).st_size
    tail = _read_tail(descriptor, file_size)
    entries = list(_parse(tail))
    located = list(locate(entries))
    end = located[-1].offset + located[-1].entry.size_bytes if located else 0
    if end > file_size:
        raise BundleError(f"entries claim {end:,} bytes, the file has {file_size:,}", hint=_REPACK)
    if tail != directory(entries) or end + len(tail) != file_size:
        raise BundleError("the ZIP directory is damaged or was altered", hint=_REPACK)
    for item in located:
        header = local_header(item.entry)
        if read_exactly(descriptor, len(header), item.offset - len(header)) != header:
            raise BundleError(
                f"the ZIP header of {item.entry.name} is damaged or was altered", hint=_REPACK
            )
    return located


def _read_tail(descriptor: int, file_size: int) -> bytes:
    """The bytes from the start of the central directory on."""
    start = os.pread(descriptor, 4, 0)
    if start != b"PK\3\4":
        raise BundleError("this is no bundle: it does not start as a ZIP archive")
    last = os.pread(descriptor, _END.size, max(0, file_size - _END.size))
    if len(last) < _END.size or last[:4] != b"PK\5\6":
        raise BundleError(
            "the bundle is truncated, or something was appended to it",
            hint="copy or build it again",
        )
    size, offset = _END.unpack(last)[5:7]
    rest = _END.size
    if offset == _FULL:
        rest += _END_64.size + _LOCATOR_64.size
    if size > MAX_DIRECTORY_BYTES or size + rest > file_size:
        raise BundleError(f"the ZIP directory claims {size:,} bytes", hint=_REPACK)
    return read_exactly(descriptor, size + rest, file_size - size - rest)


def _parse(tail: bytes) -> Iterator[Entry]:
    """Read the entries; that all other fields are right is for the comparison to find."""
    at, count = 0, 0
    while tail[at : at + 4] == b"PK\1\2":
        count += 1
        if count > MAX_ENTRIES:
            raise BundleError(f"the bundle has more than {MAX_ENTRIES:,} entries")
        try:
            yield _parse_record(tail, at)
        except struct.error as error:
            raise BundleError("the ZIP directory ends within a record") from error
        at += _CENTRAL.size + sum(_CENTRAL.unpack_from(tail, at)[10:13])


def _parse_record(tail: bytes, at: int) -> Entry:
    fields = _CENTRAL.unpack_from(tail, at)
    flags, method, crc32, stored, size, name_size = (fields[i] for i in (3, 4, 7, 8, 9, 10))
    start = at + _CENTRAL.size
    raw = tail[start : start + name_size]
    name = raw.decode("ascii", "backslashreplace")
    if method != _STORED or stored != size:
        raise BundleError(f"entry {name!r} is compressed; a bundle holds its files stored")
    if flags & _ENCRYPTED:
        raise BundleError(f"entry {name!r} is encrypted")
    if stat.S_ISLNK(fields[15] >> 16):
        raise BundleError(f"entry {name!r} is a symbolic link")
    if not raw.isascii():
        raise BundleError(f"the name of entry {name!r} is not plain ASCII")
    if size == _FULL:  # extra field: id, length, then the size
        size = struct.unpack_from("<Q", tail, start + name_size + 4)[0]
    return Entry(name, size, crc32)

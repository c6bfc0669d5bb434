"""How a record lies in a segment, and how intact ones are found around damage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import msgspec

# The mark is what a search for the next record goes by when a length can't be believed. The sum
# is zlib's CRC-32: CRC-32C has no implementation in Python's library, and finds no more.
MARK = b"\xe5\x0b"
_BODY = struct.Struct("<IQBI")  # length of the payload, seq, kind, clock in seconds
_SUM = struct.Struct("<I")
HEADER_BYTES = len(MARK) + _SUM.size + _BODY.size
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024


class Record(msgspec.Struct, frozen=True):
    """``seq`` rises over all kinds and runs; ``clock_s`` is the outbox's own, see `Outbox`."""

    seq: int
    kind: int
    clock_s: int
    payload: bytes

    @property
    def size_bytes(self) -> int:
        return HEADER_BYTES + len(self.payload)


class Damage(msgspec.Struct, frozen=True):
    """Bytes that are no record, between two that are, or after the last."""

    offset: int
    size_bytes: int


def frame(record: Record) -> bytes:
    body = _BODY.pack(len(record.payload), record.seq, record.kind, record.clock_s)
    total = zlib.crc32(record.payload, zlib.crc32(body))
    return b"".join((MARK, _SUM.pack(total), body, record.payload))


def scan(data: bytes) -> Iterator[Record | Damage]:
    """All that is intact, in the order it was written, and the damage in between."""
    offset = 0
    while offset < len(data):
        record = _record_at(data, offset)
        if record is not None:
            yield record
            offset += record.size_bytes
            continue
        begin, offset = offset, _next_intact(data, offset + 1)
        yield Damage(begin, offset - begin)


def _next_intact(data: bytes, offset: int) -> int:
    while (offset := data.find(MARK, offset)) >= 0:
        if _record_at(data, offset) is not None:
            return offset
        offset += 1
    return len(data)


def _record_at(data: bytes, offset: int) -> Record | None:
    start = offset + HEADER_BYTES
    if start > len(data) or data[offset : offset + len(MARK)] != MARK:
        return None
    body_at = start - _BODY.size
    length, seq, kind, clock_s = _BODY.unpack_from(data, body_at)
    end = start + length
    if end > len(data):
        return None
    (expected,) = _SUM.unpack_from(data, offset + len(MARK))
    if zlib.crc32(memoryview(data)[body_at:end]) != expected:
        return None
    return Record(seq, kind, clock_s, data[start:end])

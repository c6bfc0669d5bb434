"""What is done, as a file that is there whole or not at all."""

from __future__ import annotations

import zlib

import msgspec

from edge.telemetry.outbox.files import Files

NAME = "cursor"
_NEW = "cursor.new"
_SUM_BYTES = 4


class Cursor(msgspec.Struct, frozen=True):
    """``done``: first and last of each range of messages that need not be sent again."""

    done: tuple[tuple[int, int], ...] = ()
    clock_s: int = 0


def save(files: Files, cursor: Cursor) -> None:
    body = msgspec.json.encode(cursor)
    files.create(_NEW)
    try:
        files.append(_NEW, zlib.crc32(body).to_bytes(_SUM_BYTES, "little") + body)
        files.sync(_NEW)
    finally:
        files.close(_NEW)
    files.rename(_NEW, NAME)
    files.sync_folder()


def load(files: Files) -> Cursor | None:
    """None if it can't be read or believed: all that is on disk is then sent, maybe again."""
    if NAME not in files.sizes():
        return Cursor()
    try:
        data = files.read(NAME)
    except OSError:
        return None
    body = data[_SUM_BYTES:]
    if zlib.crc32(body) != int.from_bytes(data[:_SUM_BYTES], "little"):
        return None
    try:
        return msgspec.json.decode(body, type=Cursor)
    except msgspec.DecodeError:
        return None

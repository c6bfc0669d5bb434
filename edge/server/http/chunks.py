"""A body in chunks, as HTTP/1.1 transfers one whose length is not known beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable

from edge.server.http.message import HttpError

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
_MAX_LINE_BYTES = 1024
_MAX_TRAILER_BYTES = 16 * 1024


class ChunkDecoder:
    """Collects ``body``; strict, because a lenient reader is how requests are smuggled."""

    def __init__(self, max_bytes: int) -> None:
        self.body = bytearray()
        self.received_bytes = 0
        self._max_bytes = max_bytes
        self._left = 0
        self._trailer_bytes = 0
        self._step: Callable[[bytearray], bool] = self._read_size
        self._is_complete = False

    def feed(self, pending: bytearray) -> bool:
        """Take from the front of ``pending`` what belongs to the body; True once it is complete.

        Raises:
            HttpError: It is not in chunks, or larger than it may be.
        """
        before = len(pending)
        while not self._is_complete and self._step(pending):
            pass
        self.received_bytes += before - len(pending)
        return self._is_complete

    def _read_size(self, pending: bytearray) -> bool:
        line = _take_line(pending)
        if line is None:
            return False
        match = _SIZE.fullmatch(line)
        if match is None:
            raise HttpError(400, f"not the size of a chunk: {line[:40]!r}")
        self._left = int(match[1], 16)
        if len(self.body) + self._left > self._max_bytes:
            raise HttpError(413, f"the body has more than {self._max_bytes} bytes")
        self._step = self._read_data if self._left else self._read_trailer
        return True

    def _read_data(self, pending: bytearray) -> bool:
        taken = min(self._left, len(pending))
        self.body += memoryview(pending)[:taken]
        del pending[:taken]
        self._left -= taken
        if self._left == 0:
            self._step = self._read_end
        return self._left == 0

    def _read_end(self, pending: bytearray) -> bool:
        if len(pending) < 2:
            return False
        if pending[:2] != b"\r\n":
            raise HttpError(400, "a chunk is longer than its size says")
        del pending[:2]
        self._step = self._read_size
        return True

    def _read_trailer(self, pending: bytearray) -> bool:
        line = _take_line(pending)
        if line is None:
            return False
        self._trailer_bytes += len(line)
        if self._trailer_bytes > _MAX_TRAILER_BYTES:
            raise HttpError(431, f"the trailer has more than {_MAX_TRAILER_BYTES} bytes")
        self._is_complete = not line
        return True


def _take_line(pending: bytearray) -> bytes | None:
    end = pending.find(b"\r\n", 0, _MAX_LINE_BYTES)
    if end < 0:
        if len(pending) >= _MAX_LINE_BYTES:
            raise HttpError(400, f"a line between chunks has more than {_MAX_LINE_BYTES} bytes")
        return None
    line = bytes(pending[:end])
    del pending[: end + 2]
    return line

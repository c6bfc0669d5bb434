"""One client's connection: reads requests one after the other, and answers them in order."""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from typing import TYPE_CHECKING, cast

import numpy as np

from edge.server.http.body import allocate
from edge.server.http.chunks import ChunkDecoder
from edge.server.http.message import (
    Cancel,
    Head,
    HttpError,
    Request,
    Response,
    error_response,
    parse_head,
    render_head,
)

if TYPE_CHECKING:
    from edge.core.tensor import Array
    from edge.server.http.listener import Listener

log = logging.getLogger(__name__)

_MAX_HEAD_BYTES = 64 * 1024
_JOIN_BELOW_BYTES = 16 * 1024
_MAX_DIGITS = 16
_EMPTY = np.empty(0, np.uint8)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _State(enum.Enum):
    HEAD = enum.auto()
    BODY = enum.auto()
    CHUNKS = enum.auto()
    BUSY = enum.auto()
    ENDING = enum.auto()
    """The last answer is written; what still comes in is thrown away, lest a reset eat it."""


_RECEIVING = (_State.BODY, _State.CHUNKS)
_IN_FLIGHT = (*_RECEIVING, _State.BUSY)


class Connection(asyncio.BufferedProtocol):
    """Reads a body of known length straight into the array that the request will own."""

    def __init__(self, listener: Listener) -> None:
        self.deadline = math.inf
        self.has_asked = False
        self._listener = listener
        self._limits = listener.limits
        self._transport: asyncio.Transport | None = None
        self._state = _State.HEAD
        self._pending = bytearray()
        self._head = Head()
        self._body: Array = _EMPTY
        self._view = memoryview(b"")
        self._filled = 0
        self._began = 0.0
        self._chunks: ChunkDecoder | None = None
        self._cancel: Cancel | None = None
        self._is_advancing = False
        self._is_reading_paused = False
        self._is_writing_paused = False

    @property
    def is_busy(self) -> bool:
        """Whether a request was admitted and its answer is not all sent."""
        return self._state in _IN_FLIGHT or self._unsent_bytes > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.deadline = self._listener.now + self._limits.patience_s
        if not self._listener.admit(self):
            self._refuse(HttpError(503, "too many connections"))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._listener.forget(self)
        if self._cancel is not None:
            self._cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._state is _State.BODY:
            return self._view[self._filled :]
        return self._listener.scratch

    def buffer_updated(self, count: int) -> None:
        if self._state is _State.BODY:
            self._filled += count
            if self._filled == len(self._view):
                self._dispatch(self._body)
                self._advance()
            return
        if self._state is _State.ENDING:
            return
        if not self._pending and self._state is _State.HEAD:
            self.deadline = self._listener.now + self._limits.patience_s
        self._pending += self._listener.scratch[:count]
        self._advance()
        if self._pending and (self._state is _State.BUSY or self._is_writing_paused):
            self._pause_reading()

    def eof_received(self) -> bool:
        """A client that has gone gets no answer; one that stopped half-way hears why."""
        if self._is_midway:
            self._refuse(HttpError(400, "the request ended before it was complete"))
        return False

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        self.deadline = self._after(self._unsent_bytes)

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._state is _State.HEAD:
            self.deadline = self._listener.now + self._limits.idle_s
        self._resume_reading()
        self._advance()

    def expire(self) -> None:
        """End a connection whose deadline has passed."""
        if self._is_midway and not self._is_writing_paused:
            self._refuse(HttpError(408, "the request took too long to arrive"))
        else:
            self.abort()

    def close(self) -> None:
        """Close once all that was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def _is_midway(self) -> bool:
        """Whether a request has begun to arrive and is not all here."""
        return self._state in _RECEIVING or (self._state is _State.HEAD and len(self._pending) > 0)

    @property
    def _unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _after(self, size_bytes: int, since: float | None = None) -> float:
        """When ``size_bytes`` are to be through at the latest."""
        limits = self._limits
        start = self._listener.now if since is None else since
        return start + limits.patience_s + size_bytes / limits.slowest_bytes_per_s

    def _advance(self) -> None:
        """Go through what has arrived; an app that answers at once comes back here from below."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self._pending and not self._is_writing_paused and self._step():
                pass
        except HttpError as error:
            self._refuse(error)
        finally:
            self._is_advancing = False

    def _step(self) -> bool:
        if self._state is _State.HEAD:
            return self._take_head()
        if self._chunks is None:
            return False
        chunks = self._chunks
        if chunks.feed(self._pending):
            self._chunks = None
            self._dispatch(np.frombuffer(chunks.body, np.uint8))
            return True
        self.deadline = self._after(chunks.received_bytes, since=self._began)
        return False

    def _take_head(self) -> bool:
        pending = self._pending
        while pending.startswith(b"\r\n"):  # some clients end a body with a line too many
            del pending[:2]
        end = pending.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES) + 4
        if end < 4:
            if len(pending) >= _MAX_HEAD_BYTES:
                raise HttpError(431, f"the head has more than {_MAX_HEAD_BYTES} bytes")
            return False
        self._head = parse_head(pending[:end])
        del pending[:end]
        self._listener.check_open(self)
        self.has_asked = True
        self._start_body()
        return True

    def _start_body(self) -> None:
        headers = self._head.headers
        self._began = self._listener.now
        expected = headers.get(b"expect", b"").lower()
        if expected not in (b"", b"100-continue"):
            raise HttpError(417, f"can not meet the expectation {expected[:40]!r}")
        if b"transfer-encoding" in headers:
            if headers[b"transfer-encoding"].lower() != b"chunked":
                raise HttpError(501, "the only transfer coding here is chunked")
            self._chunks = ChunkDecoder(self._limits.max_body_bytes)
            self._state = _State.CHUNKS
            is_awaited = not self._pending
        else:
            is_awaited = not self._start_sized_body(int(headers.get(b"content-length", 0)))
        if is_awaited and expected and not self._head.is_http_1_0 and self._transport is not None:
            self._transport.write(_CONTINUE)

    def _start_sized_body(self, size: int) -> bool:
        """Take what is here of a body; True if that is all of it."""
        if size > self._limits.max_body_bytes:
            raise HttpError(
                413, f"the body has {size} bytes, at most {self._limits.max_body_bytes} may come"
            )
        lead = self._head.headers.get(self._limits.align_after, b"0")[:_MAX_DIGITS]
        self._body = allocate(size, int(lead) if lead.isdigit() else 0)
        taken = min(size, len(self._pending))
        self._view = self._body.data
        self._view[:taken] = self._pending[:taken]
        del self._pending[:taken]
        if taken == size:
            self._dispatch(self._body)
            return True
        self._filled = taken
        self._state = _State.BODY
        self.deadline = self._after(size)
        return False

    def _dispatch(self, body: Array) -> None:
        self._state = _State.BUSY
        self.deadline = math.inf
        self._body, self._view = _EMPTY, memoryview(b"")
        self._cancel = None
        try:
            cancel = self._listener.app(Request(self._head, body), self._respond)
        except Exception:
            log.exception("%s %r failed", self._head.method, self._head.target)
            self._respond(error_response(500, "internal error"))
        else:
            if self._state is _State.BUSY:
                self._cancel = cancel

    def _respond(self, response: Response) -> None:
        self._cancel = None
        if self._transport is None or self._transport.is_closing():
            return
        is_last = not self._head.is_kept_alive or self._listener.is_draining
        self._write(response, is_last=is_last)
        if is_last:
            self._state = _State.ENDING
            self.deadline = self._after(self._unsent_bytes)
            self._transport.close()
            return
        self._state = _State.HEAD
        now, limits = self._listener.now, self._limits
        if not self._is_writing_paused:
            self.deadline = now + (limits.patience_s if self._pending else limits.idle_s)
            self._resume_reading()
        self._advance()

    def _refuse(self, error: HttpError) -> None:
        """Answer, and be done with this client: where its next request starts is not known."""
        if self._transport is None or self._transport.is_closing():
            return
        self._write(error_response(error.status, str(error)), is_last=True)
        self._state = _State.ENDING
        self._pending.clear()
        self.deadline = self._listener.now + self._limits.linger_s
        self._resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _write(self, response: Response, *, is_last: bool) -> None:
        assert self._transport is not None
        self._listener.count(response.status)
        parts: list[bytes | memoryview] = [render_head(response, self._head, is_last=is_last)]
        if self._head.method != "HEAD":
            parts += response.parts
        if response.body_bytes < _JOIN_BELOW_BYTES:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

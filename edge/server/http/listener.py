"""Accepts connections, watches their deadlines, and lets them finish at the end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter

from edge.core.errors import InputError, UnavailableError
from edge.server.http.connection import Connection
from edge.server.http.limits import Limits
from edge.server.http.message import App, HttpError, Traffic

log = logging.getLogger(__name__)

_SCRATCH_BYTES = 16 * 1024  # what follows a head in it is copied once more, so not larger
_SWEEP_S = 0.5
_BACKLOG = 128
_GRACE_S = 0.1


class Listener:
    """All connections of one address. Everything here happens on the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.app: App
        self.limits = limits
        self.is_draining = False
        self.now = 0.0
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        """Shared by all: an event loop reads into it and hands it over without a pause."""
        self._responses: Counter[int] = Counter()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, listening: socket.socket, app: App) -> None:
        """Accept on a socket from ``bind`` and let ``app`` answer."""
        self.app = app
        loop = asyncio.get_running_loop()
        self._tick()
        self._server = await loop.create_server(
            lambda: Connection(self), sock=listening, backlog=_BACKLOG
        )

    async def drain(self, patience_s: float) -> int:
        """Accept no more, wait for what is in flight, then close.

        Returns:
            How many requests were left unanswered.
        """
        self.is_draining = True
        loop = asyncio.get_running_loop()
        if self._server is not None:
            self._server.close()
        deadline = loop.time() + patience_s
        grace = loop.time() + min(_GRACE_S, patience_s)
        while any(not one.has_asked for one in self._connections) and loop.time() < grace:
            await asyncio.sleep(0.01)
        while self._busy() and loop.time() < deadline:
            await asyncio.sleep(0.01)
        unfinished = self._busy()
        for connection in tuple(self._connections):
            connection.abort() if unfinished else connection.close()
        if self._sweep is not None:
            self._sweep.cancel()
        await asyncio.sleep(0)
        return unfinished

    def traffic(self) -> Traffic:
        return Traffic(dict(self._responses), len(self._connections))

    def admit(self, connection: Connection) -> bool:
        self._connections.add(connection)
        return len(self._connections) <= self.limits.max_connections

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def check_open(self, connection: Connection) -> None:
        """A client that was let in just before the end gets its one answer."""
        if self.is_draining and connection.has_asked:
            raise HttpError(503, "the server is shutting down")

    def count(self, status: int) -> None:
        self._responses[status] += 1

    def _busy(self) -> int:
        return sum(connection.is_busy for connection in self._connections)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        for connection in [c for c in self._connections if c.deadline < self.now]:
            connection.expire()
        self._sweep = loop.call_later(_SWEEP_S, self._tick)


def bind(address: str) -> socket.socket:
    """A socket that is bound to ``host:port`` and does not listen yet; port 0 takes a free one.

    Raises:
        InputError: It is no ``host:port``.
        UnavailableError: The port is taken, or the host is none of this machine's.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InputError(f"{address!r} is no address", hint="write it as 127.0.0.1:8000")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UnavailableError(f"can not listen on {address}: {error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise UnavailableError(
            f"can not listen on {address}: {error.strerror}",
            hint="choose another port, or let the system do so with port 0",
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """``host:port`` that a socket is bound to."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

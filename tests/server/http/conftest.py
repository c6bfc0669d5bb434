"""The HTTP side alone, on both event loops, with an app that answers as the path says."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from patience import LONG_S

from edge.server.http.limits import Limits
from edge.server.http.listener import Listener, bind
from edge.server.http.message import Cancel, Request, Respond, Response


class Site:
    """A listener on a thread; ``/held`` is answered at ``release``, ``/big`` with 4 MB."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.listener = Listener(limits)
        self.socket = bind("127.0.0.1:0")
        self.address = self.socket.getsockname()
        self.held: list[Respond] = []
        self.arrived = threading.Event()
        self.cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()
        self.call(self.listener.start(self.socket, self._app))

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LONG_S)

    def release(self) -> None:
        for respond in self.held:
            self.loop.call_soon_threadsafe(respond, Response([b"released"]))
        self.held.clear()

    def connect(self) -> Wire:
        return Wire(socket.create_connection(self.address, LONG_S))

    def stop(self) -> None:
        self.call(self.listener.drain(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LONG_S)
        self.socket.close()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _app(self, request: Request, respond: Respond) -> Cancel | None:
        path = request.head.path
        if path == b"/held":
            self.held.append(respond)
            self.arrived.set()
            return self.cancelled.set
        if path == b"/defect":
            raise ZeroDivisionError("a defect")
        if path == b"/big":
            respond(Response([bytes(2_000_000), memoryview(bytes(2_000_000))]))
        else:
            digest = hashlib.sha256(request.body.data).hexdigest()
            line = f"{request.head.method} {path.decode()} {len(request.body)} {digest}"
            respond(Response([line.encode()]))
        return None


class Wire:
    """A client's socket, and what it reads from it as HTTP."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._file = connection.makefile("rb")

    def send(self, *parts: bytes) -> Wire:
        for part in parts:
            self.socket.sendall(part)
        return self

    def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        size = int(headers.get("content-length", 0)) if has_body else 0
        return status, headers, self._file.read(size)

    def is_closed(self) -> bool:
        """Whether the server closes now; waits for it."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture(params=["uvloop", "asyncio"])
def open_site(request: pytest.FixtureRequest) -> Iterator[Callable[..., Site]]:
    """Start a site with other limits than the default."""
    sites: list[Site] = []

    def start(**limits: Any) -> Site:
        if request.param == "uvloop":
            loop = pytest.importorskip("uvloop").new_event_loop()
        else:
            loop = asyncio.new_event_loop()
        site = Site(Limits(**{"max_body_bytes": 5_000_000, **limits}), loop)
        sites.append(site)
        site.start()
        return site

    yield start
    for site in sites:
        site.stop()


@pytest.fixture
def site(open_site: Callable[..., Site]) -> Site:
    return open_site()


@pytest.fixture
def wire(site: Site) -> Iterator[Wire]:
    wire = site.connect()
    yield wire
    wire.close()

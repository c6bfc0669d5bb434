"""A closed loop of HTTP clients in one thread, the same for every server that is measured."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import time
from collections.abc import Sequence

_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
_CHUNK = 1 << 18


def post(path: str, body: bytes, *, kind: str = "application/json", headers: str = "") -> bytes:
    """A request as it goes over the wire; ``headers`` end in a line break each."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{head}{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Client:
    """One connection: sends a request, waits for the answer, sends the next one."""

    def __init__(self, port: int, requests: Sequence[bytes], first: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._requests = requests
        self._next = first
        self.begin()

    def begin(self) -> None:
        self.number = self._next % len(self._requests)
        self._next += 1
        self._left = memoryview(self._requests[self.number])
        self._answer = bytearray()
        self.started = time.perf_counter()
        self.send()

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._left = self._left[self.socket.send(self._left) :]

    @property
    def has_sent(self) -> bool:
        return not self._left

    def receive(self) -> bytes | None:
        """The body, once all of it is there."""
        data = self.socket.recv(_CHUNK)
        if not data:
            raise RuntimeError("the server closed the connection")
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = _LENGTH.search(self._answer, 0, end)
        if not self._answer.startswith(b"HTTP/1.1 200") or length is None:
            raise RuntimeError(f"not the answer that was expected: {bytes(self._answer[:400])!r}")
        if len(self._answer) < end + 4 + int(length[1]):
            return None
        return bytes(self._answer)


def load(
    port: int, requests: Sequence[bytes], clients: int, seconds: float
) -> tuple[list[tuple[int, float, bytes]], float]:
    """Number of the request, seconds until its answer, and the answer; and the seconds in all.

    No request begins after ``seconds``; those that have begun are waited for.
    """
    answers: list[tuple[int, float, bytes]] = []
    with selectors.DefaultSelector() as selector:
        begin = time.perf_counter()
        everyone = [_Client(port, requests, 3 * number) for number in range(clients)]
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        for client in everyone:
            selector.register(client.socket, both, client)
        busy = clients
        while busy:
            for key, events in selector.select():
                client = key.data
                if events & selectors.EVENT_WRITE:
                    client.send()
                    if client.has_sent:
                        selector.modify(client.socket, selectors.EVENT_READ, client)
                if not events & selectors.EVENT_READ or (answer := client.receive()) is None:
                    continue
                now = time.perf_counter()
                answers.append((client.number, now - client.started, answer))
                if now - begin < seconds:
                    client.begin()
                    if not client.has_sent:
                        selector.modify(client.socket, both, client)
                else:
                    selector.unregister(client.socket)
                    client.socket.close()
                    busy -= 1
        return answers, time.perf_counter() - begin

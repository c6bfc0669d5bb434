"""Requests and responses, and the bytes of their heads."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools
import msgspec

from edge.core.errors import EdgeError

if TYPE_CHECKING:
    from edge.core.tensor import Array

JSON = "application/json"
_HTTP_1_0 = "1.0"


class HttpError(EdgeError):
    """A request that ends with a status of its own, before or apart from any model."""

    def __init__(self, status: int, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.allow = allow


class Head(msgspec.Struct):
    """Request line and header fields; names are in lower case, repeated ones joined by commas."""

    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    is_kept_alive: bool = False
    is_http_1_0: bool = False

    @property
    def path(self) -> bytes:
        """The path of the target, still percent-encoded, without its query."""
        target = self.target.partition(b"?")[0]
        if target.startswith(b"/"):
            return target
        return b"/" + target.partition(b"://")[2].partition(b"/")[2]  # a proxy's absolute form


class Request(msgspec.Struct):
    """A whole request; ``body`` is uint8 with one axis, and nobody else's."""

    head: Head
    body: Array


class Response(msgspec.Struct):
    """Its body is ``parts`` one after the other, none of which may change any more."""

    parts: list[bytes | memoryview]
    status: int = 200
    content_type: str = JSON
    headers: tuple[tuple[str, str | int], ...] = ()

    @property
    def body_bytes(self) -> int:
        return sum(map(len, self.parts))


class Traffic(msgspec.Struct, frozen=True):
    """Responses so far by status, and open connections now."""

    responses: dict[int, int]
    connections: int


Respond = Callable[[Response], None]
Cancel = Callable[[], object]
App = Callable[[Request, Respond], "Cancel | None"]
"""Answers a request by calling ``Respond`` once on the event loop, now or later.

What it returns is called if the client goes away first.
"""


def error_response(
    status: int, message: str, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    return Response([msgspec.json.encode({"error": message})], status, headers=headers)


def parse_head(data: bytes | bytearray) -> Head:
    """Read a head, which ends with its empty line.

    Raises:
        HttpError: It is not HTTP/1.
    """
    collector = _Collector()
    parser = collector.parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an offer that a server may ignore
    except httptools.HttpParserError as error:
        raise HttpError(400, f"not an HTTP request: {error}") from error
    finally:
        del collector.parser  # a circle that only the garbage collector could open
    head = collector.head
    head.method = parser.get_method().decode("latin-1")
    head.is_http_1_0 = parser.get_http_version() == _HTTP_1_0
    return head


def render_head(response: Response, head: Head, *, is_last: bool) -> bytes:
    """The bytes before the body of an answer to ``head``."""
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {response.body_bytes}",
    ]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if is_last:
        lines.append("Connection: close")
    elif head.is_http_1_0:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Collector:
    """What the parser calls."""

    parser: httptools.HttpRequestParser

    def __init__(self) -> None:
        self.head = Head()

    def on_url(self, url: bytes) -> None:
        self.head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self.head.headers
        name = name.lower()
        headers[name] = headers[name] + b", " + value if name in headers else value

    def on_headers_complete(self) -> None:
        # Only now: at the end of a message without a body the parser forgets it.
        self.head.is_kept_alive = self.parser.should_keep_alive()

"""Content codings: bodies that are compressed with gzip or deflate, both ways."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from edge.server.http.message import HttpError, Response

if TYPE_CHECKING:
    from edge.core.tensor import Array

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # tells them apart by their first bytes
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_FAST = 1  # tensors of floats hardly shrink further
_WORTH_IT_BYTES = 1024
_NONE = (b"", b"identity")


def coding_threads() -> ThreadPoolExecutor:
    """Where to compress: zlib lets go of the interpreter, and would hold up the event loop."""
    return ThreadPoolExecutor(1, thread_name_prefix="edge-coding")


def is_coded(content_encoding: bytes) -> bool:
    """Whether a body with this ``Content-Encoding`` needs ``decompress``.

    Raises:
        HttpError: It has a coding that is not known here.
    """
    coding = content_encoding.strip().lower()
    if coding in _NONE:
        return False
    if coding.decode("latin-1") not in _WINDOWS:
        raise HttpError(415, f"the content codings here are gzip and deflate, not {coding!r}")
    return True


def decompress(body: Array, max_bytes: int) -> Array:
    """The body as it was.

    Raises:
        HttpError: It is damaged, more than one stream, or larger than ``max_bytes``.
    """
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        result = stream.decompress(body.data, max_bytes + 1)
    except zlib.error as error:
        raise HttpError(400, f"the compressed body is damaged: {error}") from error
    if len(result) > max_bytes:
        raise HttpError(413, f"the body has more than {max_bytes} bytes once decompressed")
    if not stream.eof:
        raise HttpError(400, "the compressed body ends too early")
    if stream.unused_data:
        raise HttpError(400, f"{len(stream.unused_data)} bytes follow the compressed body")
    return np.frombuffer(result, np.uint8)


def wanted_coding(accept_encoding: bytes) -> str:
    """The coding to answer in; empty for none."""
    for item in accept_encoding.decode("latin-1").lower().split(","):
        coding, _, quality = item.partition(";")
        if coding.strip() in _WINDOWS and quality.replace(" ", "").rstrip("0.") != "q=":
            return coding.strip()
    return ""


def is_worth_coding(response: Response) -> bool:
    return response.status == 200 and response.body_bytes >= _WORTH_IT_BYTES


def compress(response: Response, coding: str) -> Response:
    stream = zlib.compressobj(_FAST, zlib.DEFLATED, _WINDOWS[coding])
    parts: list[bytes | memoryview] = [stream.compress(part) for part in response.parts]
    headers = (*response.headers, ("Content-Encoding", coding), ("Vary", "Accept-Encoding"))
    return Response([*parts, stream.flush()], response.status, response.content_type, headers)

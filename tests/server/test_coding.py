from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest

from edge.server import coding
from edge.server.http.message import HttpError, Response


def body(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 400])
def test_what_was_compressed_comes_back(pack: object, data: bytes) -> None:
    packed = pack(data)  # type: ignore[operator]
    assert coding.decompress(body(packed), len(data)).tobytes() == data


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_bomb_is_refused_when_it_passes_the_limit(pack: object) -> None:
    bomb = pack(bytes(50_000_000))  # type: ignore[operator]
    assert len(bomb) < 60_000
    with pytest.raises(HttpError, match="more than 100000 bytes") as caught:
        coding.decompress(body(bomb), 100_000)
    assert caught.value.status == 413


GOOD = gzip.compress(b"tensor" * 100, mtime=0)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"no gzip at all", GOOD[:-9], GOOD[:5], GOOD + b"more", GOOD[:20] + b"\xff" * 9],
)
def test_damaged_streams_are_refused(damaged: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        coding.decompress(body(damaged), 10_000)
    assert caught.value.status == 400


def test_unknown_codings_are_415_and_identity_is_none() -> None:
    assert not coding.is_coded(b"identity")
    assert coding.is_coded(b" GZIP ")
    with pytest.raises(HttpError, match="gzip and deflate") as caught:
        coding.is_coded(b"br")
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("accepted", "coding_"),
    [
        (b"gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"br, gzip;q=0.5", "gzip"),
        (b"gzip;q=0, deflate", "deflate"),
        (b"gzip; q=0.00", ""),
        (b"identity", ""),
        (b"", ""),
        (b"\xff\x00;;,,", ""),
    ],
)
def test_the_coding_is_one_that_the_client_accepts(accepted: bytes, coding_: str) -> None:
    assert coding.wanted_coding(accepted) == coding_


@pytest.mark.parametrize(
    ("name", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)]
)
def test_compressed_answers_keep_their_headers_and_parts(name: str, unpack: object) -> None:
    response = Response([b"a" * 900, memoryview(b"b" * 900)], headers=(("X", 1),))
    packed = coding.compress(response, name)
    assert unpack(b"".join(packed.parts)) == b"a" * 900 + b"b" * 900  # type: ignore[operator]
    assert ("X", 1) in packed.headers
    assert ("Content-Encoding", name) in packed.headers


def test_errors_and_short_answers_are_not_compressed() -> None:
    assert coding.is_worth_coding(Response([bytes(1024)]))
    assert not coding.is_worth_coding(Response([bytes(1023)]))
    assert not coding.is_worth_coding(Response([bytes(5000)], 400))

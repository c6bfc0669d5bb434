"""What no well-behaved client sends: each gets an answer, and the server goes on serving."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LENGTH = "Inference-Header-Content-Length"
TENSOR = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
MODEL = "identity-float32"
MAX_BODY_BYTES = 1_000_000  # of the server that the fixture starts
INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture(autouse=True)
def _goes_on(server: Any) -> Iterator[None]:
    yield
    answer = server.infer(MODEL, {"inputs": [{**TENSOR, "data": [1, 2]}]})
    assert answer.status == 200
    assert answer.json["outputs"][0]["data"] == [1, 2]


def binary(size: int, raw: bytes, *, shape: tuple[int, ...] = (1, 2)) -> tuple[bytes, str]:
    """A body that says ``size`` and holds ``raw``, and the length of its JSON."""
    tensor = {**TENSOR, "shape": shape, "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + raw, str(len(text))


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", INFER, 405, "POST"),
        ("DELETE", f"/v2/models/{MODEL}", 405, "GET"),
        ("POST", "/v2", 405, "GET"),
        ("POST", "/metrics", 405, "GET"),
        ("GET", "/v2/repository/index", 405, "POST"),
        ("GET", "/absent", 404, ""),
        ("GET", "/v2/models", 404, ""),
        ("GET", "/v2/models/absent", 404, ""),
        ("GET", "/v2/models/absent/stats", 404, ""),
        ("POST", "/v2/models/absent/infer", 404, ""),
        ("GET", f"/v2/models/{MODEL}/versions/9", 404, ""),
        ("GET", f"/v2/models/{MODEL}/absent", 404, ""),
        ("GET", "/v2/models/%ff%00/ready", 404, ""),
        ("GET", "/../../etc/passwd", 404, ""),
    ],
)
def test_a_wrong_path_or_verb(server: Any, method: str, path: str, status: int, allow: str) -> None:
    answer = server.request(method, path)

    assert answer.status == status
    assert answer.error
    assert allow in answer.headers.get("allow", "")


def test_names_in_paths_are_decoded(server: Any) -> None:
    assert server.get("/v2/models/identity%2Dfloat32").json["name"] == MODEL
    assert server.get(f"/v2/models/{MODEL}/versions/3?x=1").json["name"] == MODEL


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "inference request"),
        (b"{", "inference request"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'{"inputs": 3}', "inputs"),
        (b'{"inputs": []}', "'x' is missing"),
        (b'{"inputs": [{"name": "x"}]}', "shape"),
        (b"\xff\xfe", "inference request"),
        (b'{"inputs": ' + b"[" * 100_000, "inference request"),
        ({"inputs": [TENSOR]}, "neither data"),
        ({"inputs": [{**TENSOR, "data": [1]}]}, "2 elements, got 1"),
        ({"inputs": [{**TENSOR, "data": [1, "2"]}]}, "FP32"),
        ({"inputs": [{**TENSOR, "data": [1, 1e300]}]}, "'x'"),
        ({"inputs": [{**TENSOR, "data": [[1], [2]]}]}, "shape"),
        ({"inputs": [{**TENSOR, "data": "ab"}]}, "FP32"),
        ({"inputs": [{**TENSOR, "shape": [-1, 2], "data": [1, 2]}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [1] * 70 + [2], "data": [1, 2]}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [10**30, 0], "data": []}]}, "shape"),
        ({"inputs": [{**TENSOR, "datatype": "FP64", "data": [1, 2]}]}, "FP32"),
        ({"inputs": [{**TENSOR, "datatype": "NUMBER", "data": [1, 2]}]}, "NUMBER"),
        ({"inputs": [{**TENSOR, "data": [1, 2]}] * 2}, "twice"),
        ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 8}}]}, LENGTH),
        ({"id": 7, "inputs": [{**TENSOR, "data": [1, 2]}]}, "id"),
    ],
    ids=str,
)
def test_a_wrong_request_in_json(server: Any, body: Any, message: str) -> None:
    answer = server.infer(MODEL, body)

    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize(
    ("size", "raw", "shape"),
    [
        (8, b"1234567", (1, 2)),
        (8, b"123456789", (1, 2)),
        (7, b"1234567", (1, 2)),
        (9, b"123456789", (1, 2)),
        (8, b"", (1, 2)),
        (8, b"12345678", (1, 3)),
        (2**70, b"12345678", (1, 2)),
        (8, b"12345678", (2**62, 2**62)),
    ],
)
def test_a_binary_body_of_another_length_than_it_says(
    server: Any, size: int, raw: bytes, shape: tuple[int, ...]
) -> None:
    body, length = binary(size, raw, shape=shape)

    answer = server.infer(MODEL, body, {LENGTH: length})

    assert answer.status == 400
    assert answer.error


@pytest.mark.parametrize("length", ["999", "-1", "x", "", "1e3", "9" * 400, "1, 2"])
def test_a_wrong_length_of_the_json(server: Any, length: str) -> None:
    body, _ = binary(8, b"12345678")

    answer = server.infer(MODEL, body, {LENGTH: length})

    assert answer.status == 400
    assert answer.error


def test_a_raw_body_is_the_only_input(server: Any) -> None:
    answer = server.infer(MODEL, bytes(16), {LENGTH: "0"})

    assert answer.status == 200
    described = json.loads(answer.body[: int(answer.headers[LENGTH.lower()])])
    assert described["outputs"][0]["shape"] == [2, 2]
    assert answer.body.endswith(bytes(16))
    assert server.infer(MODEL, bytes(15), {LENGTH: "0"}).status == 400
    assert "one input" in server.infer("simple", bytes(64), {LENGTH: "0"}).error


@pytest.mark.parametrize(
    "raw",
    [b"\x01", b"\x05\x00\x00\x00abc", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b""],
    ids=repr,
)
def test_text_that_is_cut_short(server: Any, raw: bytes) -> None:
    tensor = {
        "name": "x",
        "shape": [1, 2],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(raw)},
    }
    text = json.dumps({"inputs": [tensor]}).encode()

    answer = server.infer("identity-string", text + raw, {LENGTH: str(len(text))})

    assert answer.status == 400
    assert answer.error


def test_an_output_that_json_can_not_hold(server: Any) -> None:
    body, length = binary(8, b"\x00\x00\x80\x7f" * 2)

    answer = server.infer(MODEL, body, {LENGTH: length})

    assert answer.status == 400
    assert "infinity" in answer.error


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_not_unpacked(server: Any, coding: str) -> None:
    pack = gzip.compress if coding == "gzip" else zlib.compress
    bomb = pack(bytes(20 * MAX_BODY_BYTES))
    assert len(bomb) < MAX_BODY_BYTES

    assert server.infer(MODEL, bomb, {"Content-Encoding": coding}).status == 413


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_damaged_compressed_body(server: Any, coding: str) -> None:
    pack = gzip.compress if coding == "gzip" else zlib.compress
    whole = pack(json.dumps({"inputs": [{**TENSOR, "data": [1, 2]}]}).encode())

    for damaged in (whole[:-5], whole + b"more", b"not packed", b""):
        answer = server.infer(MODEL, damaged, {"Content-Encoding": coding})
        assert answer.status == 400, damaged
        assert answer.error


def test_an_unknown_content_encoding(server: Any) -> None:
    answer = server.infer(MODEL, b"{}", {"Content-Encoding": "br"})

    assert answer.status == 415
    assert "gzip" in answer.error


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: Any) -> None:
    with server.connect() as connection:
        connection.send(f"POST {INFER} HTTP/1.1\r\nHost: x\r\n".encode())
        connection.send(b"Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n")
        answer = connection.answer()
        assert answer.status == 413
        assert answer.error
        assert connection.is_closed()


def test_a_body_that_is_too_large_and_sent_all_the_same_is_answered(server: Any) -> None:
    size = MAX_BODY_BYTES + 1
    with server.connect() as connection:
        connection.send(
            f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        connection.send(bytes(size))
        assert connection.answer().status == 413


def test_chunks_beyond_the_limit(server: Any) -> None:
    with server.connect() as connection:
        connection.send(f"POST {INFER} HTTP/1.1\r\nHost: x\r\n".encode())
        connection.send(b"Transfer-Encoding: chunked\r\n\r\n")
        connection.send(b"%x\r\n" % (MAX_BODY_BYTES + 1))
        assert connection.answer().status == 413


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: ten\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 20_000,
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
    ],
    ids=lambda data: repr(data[:70]),
)
def test_what_is_no_http_is_refused_and_the_connection_closed(server: Any, data: bytes) -> None:
    with server.connect() as connection:
        connection.send(data)
        answer = connection.answer()
        assert 400 <= answer.status < 500 or answer.status == 501
        assert answer.error
        assert connection.is_closed()


def request(body: bytes, headers: bytes = b"") -> bytes:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n".encode() + headers
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def numbered(number: int) -> bytes:
    tensor = {**TENSOR, "data": [number, 0]}
    return json.dumps({"id": str(number), "inputs": [tensor]}).encode()


def test_pipelined_requests_are_answered_in_order(server: Any) -> None:
    with server.connect() as connection:
        connection.send(b"".join(request(numbered(number)) for number in range(100)))
        assert [connection.answer().json["id"] for _ in range(100)] == [
            str(number) for number in range(100)
        ]


def test_a_request_may_come_byte_by_byte(server: Any) -> None:
    with server.connect() as connection:
        for byte in request(numbered(7)):
            connection.send(bytes([byte]))
        assert connection.answer().json["id"] == "7"


def test_a_chunked_body(server: Any) -> None:
    body = numbered(7)
    chunks = b"".join(b"1;name=value\r\n" + body[i : i + 1] + b"\r\n" for i in range(len(body)))
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with server.connect() as connection:
        connection.send(head + chunks + b"0\r\nTrailer: x\r\n\r\n" + request(numbered(8)))
        assert connection.answer().json["id"] == "7"
        assert connection.answer().json["id"] == "8"


def test_a_client_that_waits_to_be_told_to_go_on(server: Any) -> None:
    head, body = request(numbered(7), b"Expect: 100-continue\r\n").split(b"\r\n\r\n")
    with server.connect() as connection:
        connection.send(head + b"\r\n\r\n")
        assert connection.answer().status == 100
        connection.send(body)
        assert connection.answer().json["id"] == "7"


def test_a_head_request_gets_no_body(server: Any) -> None:
    with server.connect() as connection:
        connection.send(b"HEAD /v2 HTTP/1.1\r\nHost: x\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        first = connection.answer(has_body=False)
        second = connection.answer()
        assert first.status == second.status == 200
        assert first.headers["content-length"] == str(len(second.body))


@pytest.mark.parametrize(
    ("line", "is_kept"),
    [(b"HTTP/1.1\r\nConnection: close", False), (b"HTTP/1.0", False), (b"HTTP/1.1", True)],
)
def test_the_connection_stays_open_as_the_client_wishes(
    server: Any, line: bytes, is_kept: bool
) -> None:
    with server.connect() as connection:
        connection.send(b"GET /v2 " + line + b"\r\nHost: x\r\n\r\n")
        assert connection.answer().status == 200
        if is_kept:
            connection.send(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.answer().status == 200
        else:
            assert connection.is_closed()


def test_an_offer_to_upgrade_is_ignored(server: Any) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAA"}

    assert server.request("GET", "/v2", headers=offer).status == 200


def test_clients_that_go_away_half_way_harm_nobody(server: Any) -> None:
    whole = request(numbered(1))
    for end in range(0, len(whole), 16):
        connection = server.connect()
        connection.send(whole[:end])
        connection.close()
    for _ in range(20):  # gone while the answer is being made
        connection = server.connect()
        connection.send(whole * 5)
        connection.close()


@settings(max_examples=150)
@given(data=st.binary(max_size=300))
def test_random_bytes_in_a_body_never_make_a_defect(server: Any, data: bytes) -> None:
    answer = server.infer(MODEL, data)

    assert answer.status == 400
    assert answer.error


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(["name", "shape", "datatype", "parameters", "data"])
PARAMETERS = st.fixed_dictionaries({}, optional={"binary_data_size": json_values})


@settings(max_examples=150)
@given(
    changes=st.dictionaries(KEYS, json_values | PARAMETERS, min_size=1),
    raw=st.binary(max_size=16),
    skew=st.integers(-3, 3),
)
def test_a_request_with_wrong_parts_never_makes_a_defect(
    server: Any, changes: dict[str, Any], raw: bytes, skew: int
) -> None:
    text = json.dumps({"inputs": [{**TENSOR, "data": [1, 2], **changes}]}).encode()

    answer = server.infer(MODEL, text + raw, {LENGTH: str(len(text) + skew)})

    assert answer.status in (200, 400)

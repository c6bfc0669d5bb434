from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from patience import LONG_S, wait_until

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n"


def post(body: bytes, *fields: bytes, path: bytes = b"/x") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: h", *fields]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body


def chunked(*chunks: bytes, trailer: bytes = b"") -> bytes:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n%s\r\n" % trailer


def echo(body: bytes, method: str = "POST", path: str = "/x") -> bytes:
    return f"{method} {path} {len(body)} {hashlib.sha256(body).hexdigest()}".encode()


def error_of(answer: tuple[int, dict[str, str], bytes]) -> str:
    assert answer[1]["content-type"] == "application/json"
    message: str = json.loads(answer[2])["error"]
    return message


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 70_000, 3_000_000])
def test_a_body_of_any_size_arrives_whole(wire: Any, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    wire.send(post(body[:size]))
    assert wire.answer()[2] == echo(body[:size])
    wire.send(GET)
    assert wire.answer()[0] == 200


def test_a_request_may_come_byte_by_byte(wire: Any) -> None:
    request = post(b"abc") + chunked(b"de", b"f", trailer=b"X: y\r\n")
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.send(*(request[i : i + 1] for i in range(len(request))))
    assert wire.answer()[2] == echo(b"abc")
    assert wire.answer()[2] == echo(b"def")


def test_pipelined_requests_are_answered_in_order(wire: Any) -> None:
    bodies = [bytes([n]) * (n * 997) for n in range(1, 60)]
    wire.send(b"".join(chunked(b) if n % 2 else post(b) for n, b in enumerate(bodies)))
    assert [wire.answer()[2] for _ in bodies] == [echo(body) for body in bodies]


def test_a_pipelined_request_waits_for_the_answer_before_it(site: Any, wire: Any) -> None:
    wire.send(HELD + post(bytes(100_000)) + GET)
    assert site.arrived.wait(LONG_S)
    site.release()
    assert wire.answer()[2] == b"released"
    assert wire.answer()[2] == echo(bytes(100_000))
    assert wire.answer()[2] == echo(b"", "GET")


def test_large_answers_wait_for_a_slow_reader_and_bind_no_memory(site: Any, wire: Any) -> None:
    count = 20
    wire.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n" * count)
    assert all(len(wire.answer()[2]) == 4_000_000 for _ in range(count))


def test_expectation_is_met_before_the_body_is_sent(wire: Any) -> None:
    head, body = post(b"abc", b"Expect: 100-continue")[:-3], b"abc"
    wire.send(head)
    assert wire.answer(has_body=False)[0] == 100
    wire.send(body)
    assert wire.answer()[2] == echo(b"abc")


def test_expectation_of_too_much_is_refused_before_the_body_is_sent(wire: Any) -> None:
    wire.send(
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n\r\n"
    )
    assert wire.answer()[0] == 413
    assert wire.is_closed()


def test_head_gets_the_length_and_no_body(wire: Any) -> None:
    wire.send(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    status, headers, _ = wire.answer(has_body=False)
    assert (status, int(headers["content-length"])) == (200, len(echo(b"", "HEAD")))
    assert wire.answer()[2] == echo(b"", "GET")


@pytest.mark.parametrize(
    ("version", "field", "is_kept"),
    [
        (b"1.1", b"Connection: close", False),
        (b"1.0", b"X: y", False),
        (b"1.0", b"Connection: keep-alive", True),
        (b"1.1", b"Upgrade: h2c\r\nConnection: Upgrade", True),
    ],
)
def test_the_connection_stays_as_the_client_asks(
    wire: Any, version: bytes, field: bytes, is_kept: bool
) -> None:
    wire.send(b"GET /x HTTP/" + version + b"\r\nHost: h\r\n" + field + b"\r\n\r\n")
    status, headers, _ = wire.answer()
    assert status == 200
    assert (headers.get("connection") == "close") is not is_kept
    if is_kept:
        wire.send(GET)
        assert wire.answer()[0] == 200
    else:
        assert wire.is_closed()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /x HTTP/9.9\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST /x HTTP/1.1\r\nContent-Length: 5000001\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n", 417),
        (b"GET /x HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (chunked()[:-5] + b"g\r\n", 400),
        (chunked()[:-5] + b"-1\r\n", 400),
        (chunked()[:-5] + b"1\r\nab\r\n", 400),
        (chunked()[:-5] + b"ffffffffffffffff\r\n", 413),
        (chunked()[:-5] + b"1" * 2000, 400),
        (chunked(trailer=b"X: y\r\n" * 5000), 431),
    ],
)
def test_what_is_not_http_gets_an_error_in_json_and_a_closed_connection(
    wire: Any, site: Any, sent: bytes, status: int
) -> None:
    wire.send(sent)
    answer = wire.answer()
    assert answer[0] == status
    assert error_of(answer)
    assert wire.is_closed()
    other = site.connect()
    assert other.send(GET).answer()[0] == 200
    other.close()


def test_a_client_that_sends_too_much_still_reads_why(open_site: Callable[..., Any]) -> None:
    wire = open_site(linger_s=LONG_S).connect()
    wire.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 20000000\r\n\r\n")
    wire.send(bytes(20_000_000))
    answer = wire.answer()
    assert answer[0] == 413
    assert "20000000" in error_of(answer)
    wire.close()


@pytest.mark.parametrize("cut", [10, len(post(b"")) + 1, len(post(bytes(50_000))) - 1])
def test_a_request_that_ends_too_early_is_told(wire: Any, cut: int) -> None:
    wire.send(post(bytes(50_000))[:cut])
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.answer()[0] == 400
    assert wire.is_closed()


def test_a_defect_is_a_500_and_the_connection_goes_on(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire.send(b"GET /defect HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    answer = wire.answer()
    assert (answer[0], error_of(answer)) == (500, "internal error")
    assert wire.answer()[0] == 200
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("sent", [b"GET /x HT", post(bytes(100))[:-1], chunked(b"abc")[:-3]])
def test_a_request_that_never_ends_times_out(open_site: Callable[..., Any], sent: bytes) -> None:
    wire = open_site(patience_s=0.05).connect()
    wire.send(sent)
    assert wire.answer()[0] == 408
    assert wire.is_closed()
    wire.close()


def test_chunks_that_drip_do_not_keep_a_connection_for_ever(
    open_site: Callable[..., Any],
) -> None:
    wire = open_site(patience_s=0.2).connect()
    wire.send(chunked()[:-5])
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            wire.send(b"1\r\nx\r\n")
            if select.select([wire.socket], [], [], 0.1)[0]:
                break
    assert wire.answer()[0] == 408
    wire.close()


def test_idle_connections_and_lingering_ones_are_closed(open_site: Callable[..., Any]) -> None:
    site = open_site(idle_s=0.2, linger_s=0.05)

    def is_answered_and_closed() -> bool:
        """A client that is too slow is closed before it asks."""
        wire = site.connect()
        try:
            return wire.send(GET).answer()[0] == 200 and wire.is_closed()
        except (IndexError, OSError):
            return False
        finally:
            wire.close()

    wait_until(is_answered_and_closed)


def test_a_reader_that_never_reads_is_dropped(open_site: Callable[..., Any]) -> None:
    site = open_site(patience_s=0.05, slowest_bytes_per_s=1_000_000_000)
    wire = site.connect()
    wire.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n" * 8)
    wait_until(lambda: not site.call(_traffic(site)).connections)
    wire.close()


async def _traffic(site: Any) -> Any:
    return site.listener.traffic()


def test_too_many_connections_are_refused(open_site: Callable[..., Any]) -> None:
    site = open_site(max_connections=1)
    first = site.connect().send(GET)
    assert first.answer()[0] == 200
    second = site.connect()
    assert second.answer()[0] == 503
    assert first.send(GET).answer()[0] == 200
    first.close()
    second.close()


@pytest.mark.parametrize("is_reset", [False, True])
def test_work_for_a_client_that_has_gone_is_cancelled(site: Any, is_reset: bool) -> None:
    wire = site.connect().send(HELD)
    assert site.arrived.wait(LONG_S)
    if is_reset:
        linger = struct.pack("ii", 1, 0)
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wire.close()
    assert site.cancelled.wait(LONG_S)
    site.release()
    other = site.connect().send(GET)
    assert other.answer()[0] == 200
    other.close()


def test_clients_killed_midway_leave_nothing_behind(site: Any) -> None:
    request = post(bytes(200_000))
    for cut in (5, 60, 1000, 199_999):
        site.connect().send(request[:cut]).close()
    wire = site.connect().send(GET)
    assert wire.answer()[0] == 200
    wait_until(lambda: site.call(_traffic(site)).connections == 1)
    wire.close()


def test_drain_finishes_what_is_in_flight_and_refuses_what_is_new(site: Any) -> None:
    busy, idle = site.connect().send(HELD), site.connect().send(GET)
    assert idle.answer()[0] == 200
    assert site.arrived.wait(LONG_S)
    draining = asyncio.run_coroutine_threadsafe(site.listener.drain(LONG_S), site.loop)
    wait_until(lambda: site.listener.is_draining)
    refused = idle.send(GET).answer()
    assert (refused[0], refused[1]["connection"]) == (503, "close")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(site.address, LONG_S)
    site.release()
    assert busy.answer()[2] == b"released"
    assert draining.result(LONG_S) == 0
    assert busy.is_closed()
    busy.close()
    idle.close()


def test_drain_gives_up_in_the_end_and_counts_what_is_left(site: Any) -> None:
    wire = site.connect().send(HELD)
    assert site.arrived.wait(LONG_S)
    assert site.call(site.listener.drain(0.05)) == 1
    wire.close()

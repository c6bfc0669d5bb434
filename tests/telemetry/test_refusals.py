"""Brokers that refuse a login or a message, or vanish amid a packet; and a clock in 1970."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S

from edge.core.errors import UnavailableError
from edge.telemetry.address import BrokerAddress, TlsFiles, parse_address
from edge.telemetry.link import Link
from edge.telemetry.sender import Sender
from edge.telemetry.topics import Topics
from edge.telemetry.watcher import Watcher

TOPICS = Topics("lab", "one")
LIMIT = 4000
CONNACK = b"\x20\x02\0\0"

Eventually = Callable[[Callable[[], bool], str], None]


def _topic(number: int) -> str:
    return TOPICS.of("tele", f"n{number}")


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_wrong_login_is_told_and_the_right_one_is_accepted(
    mosquitto: Any, make_sender: Any, eventually: Eventually, tmp_path: Path, version: str
) -> None:
    passwords = tmp_path / "passwords"
    command = ["mosquitto_passwd", "-c", "-b", str(passwords), "ann", "p@ss"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("mosquitto_passwd is not installed")
    port = mosquitto("allow_anonymous false", f"password_file {passwords}").port
    for login in ("", "ann:wrong@", "bob:p%40ss@"):
        sender = make_sender(f"mqtt://{login}127.0.0.1:{port}", version=version)
        eventually(lambda sender=sender: sender.state == "refused", "the refusal")
        assert sender.reason == "Not authorized (is user:password@ in its URL right?)"
    sender = make_sender(f"mqtt://ann:p%40ss@127.0.0.1:{port}", version=version)
    eventually(lambda: sender.state == "connected", "the connection")


def test_who_watches_is_told_of_a_refusal_as_such(serve: Any) -> None:
    refusing = serve(lambda data: b"\x20\x02\0\x05")
    watcher = Watcher(f"mqtt://127.0.0.1:{refusing.port}", "+", "+")
    with pytest.raises(UnavailableError, match="refuses us: Not authorized") as caught:
        watcher.open()
    assert not caught.value.hint


def test_messages_that_are_too_large_are_one_line_of_the_log_for_each_topic(
    mosquitto: Any, make_sender: Any, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    sender = make_sender(mosquitto(f"max_packet_size {LIMIT}").port, version="5")
    for _ in range(5):
        sender.send(_topic(1), {"text": "x" * LIMIT})
    eventually(lambda: sender.backlog.status().dropped_count == 5, "them to be given up")
    said = [r for r in caplog.records if "given up" in r.message and r.levelname == "WARNING"]
    assert len(said) == 1


def _send_one_that_is_too_large(sender: Sender) -> None:
    for number in range(6):
        text = "x" * (LIMIT if number == 2 else 10)
        sender.send(_topic(number), {"number": number, "text": text}, is_event=number % 2 == 0)


@pytest.mark.parametrize(
    ("version", "reason", "connections"), [("5", "too large", 1), ("3.1.1", "refused", 7)]
)
def test_message_beyond_the_brokers_limit_is_given_up_and_told(
    mosquitto: Any,
    read: Any,
    make_sender: Any,
    eventually: Eventually,
    version: str,
    reason: str,
    connections: int,
) -> None:
    """MQTT 5 tells the limit; by 3.1.1 the broker hangs up: once on several, five times on one."""
    control = mosquitto(f"max_packet_size {LIMIT}")
    reader = read(control)
    sender = make_sender(control.port, version=version)
    eventually(lambda: sender.state == "connected", "the connection")
    _send_one_that_is_too_large(sender)
    eventually(lambda: len(reader.gaps()) == 1, "the gap")
    eventually(lambda: set(reader.numbers()) == {0, 1, 3, 4, 5}, "the others")
    (gap,) = reader.gaps()
    assert (gap["count"], gap["reason"], gap["from"]) == (1, reason, gap["to"])
    assert control.url in gap["detail"]
    assert sender.backlog.status().dropped_count == 1
    assert sender.status().connection_count <= connections
    sender.send(_topic(6), {"number": 6})
    eventually(lambda: 6 in reader.numbers(), "what comes later")


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("over", [0, 3])
def test_packet_of_the_largest_size_is_taken_and_a_larger_one_is_not(
    mosquitto: Any, version: str, over: int
) -> None:
    """But for the two bytes of the length, which mosquitto leaves out and the standard does not."""
    address = parse_address(mosquitto(f"max_packet_size {LIMIT}").url)
    link = Link(address, version=version, timeout_s=LONG_S)
    link.open()
    while link.state == "connecting":
        link.step(LONG_S)
    assert link.max_packet_bytes == (LIMIT if version == "5" else None)
    payload = bytes(LIMIT + over - (link.packet_bytes("t", bytes(LIMIT)) - LIMIT))
    assert link.packet_bytes("t", payload) == LIMIT + over
    number = link.send("t", payload, is_retained=False)
    acknowledged: list[int] = []
    while link.is_open and not acknowledged:
        link.step(LONG_S)
        acknowledged = link.acknowledged()
    assert acknowledged == ([] if over else [number])
    link.disconnect()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_retained_value_beyond_the_brokers_limit_holds_up_nothing(
    mosquitto: Any, read: Any, make_sender: Any, eventually: Eventually, version: str
) -> None:
    control = mosquitto(f"max_packet_size {LIMIT}")
    reader = read(control)
    sender = make_sender(control.port, version=version)
    sender.retain(TOPICS.of("info"), {"text": "x" * LIMIT})
    sender.send(_topic(0), {"number": 0})
    eventually(lambda: 0 in reader.numbers(), "what is behind it")
    count = sender.status().connection_count
    sender.retain(TOPICS.of("info"), {"text": "short"})
    eventually(lambda: reader.numbers() != [] and _has_info(reader), "another value")
    assert sender.status().connection_count == count


def _has_info(reader: Any) -> bool:
    return any(arrival.path == "info" for arrival in reader.arrivals)


def test_message_that_a_broker_refuses_against_the_protocol_is_given_up(
    mosquitto: Any, read: Any, make_sender: Any, eventually: Eventually
) -> None:
    """mosquitto's message_size_limit gives a reason that no PUBACK may have."""
    control = mosquitto(f"message_size_limit {LIMIT // 2}")
    reader = read(control)
    sender = make_sender(control.port, version="5")
    _send_one_that_is_too_large(sender)
    eventually(lambda: set(reader.numbers()) == {0, 1, 3, 4, 5}, "the others")
    eventually(lambda: len(reader.gaps()) == 1, "the gap")
    assert reader.gaps()[0]["reason"] == "refused"


@pytest.mark.parametrize(
    "answer",
    [
        b"\x20",
        b"\x20\x02\0",
        CONNACK + b"\x40",
        CONNACK + b"\x40\x02\0",
        CONNACK + b"\x30\x7f\0\x09",
    ],
    ids=["CONNACK-1", "CONNACK-3", "PUBACK-1", "PUBACK-3", "PUBLISH-4"],
)
@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "closed"])
def test_broker_that_vanishes_amid_a_packet_costs_a_connection_and_no_message(
    serve: Any, make_sender: Any, eventually: Eventually, answer: bytes, is_silent: bool
) -> None:
    def reply(data: bytes) -> bytes:
        if not is_silent:
            closing.append(True)
        return answer if data[0] == 0x10 else b""

    closing: list[bool] = []
    server = serve(reply)
    sender = make_sender(server.port, timeout_s=0.3, keepalive_s=1)
    for number in range(5):
        sender.send(_topic(number), {"number": number})

    def is_back() -> bool:
        if closing:
            closing.clear()
            time.sleep(0.01)  # for the answer to be under way
            server.cut()
        return len(server.connections) >= 2

    eventually(is_back, "it to try again")
    sender.close(0.2)
    sender.backlog.begin()
    taken = [message for message in iter(sender.backlog.take, None) if "/tele/" in message.topic]
    assert len(taken) == 5


def test_clock_in_1970_is_the_reason_and_is_looked_at_again(
    mosquitto: Any,
    authority: Any,
    make_sender: Any,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, key = authority().sign("broker")
    port = mosquitto(f"certfile {certificate}", f"keyfile {key}").port
    address = BrokerAddress("127.0.0.1", port, tls=TlsFiles(ca=str(authority().ca)))
    sender = make_sender([address], is_started=False)
    monkeypatch.setattr(sender._floor, "_now_s", lambda: 60.0)
    monkeypatch.setattr(sender._floor, "_is_synchronized", lambda: False)
    sender.start()
    eventually(lambda: sender.state == "unreachable", "the reason")
    assert sender.reason.startswith("the clock says 1970-01-01 00:01 UTC")
    monkeypatch.setattr(sender._floor, "_now_s", time.time)
    eventually(lambda: sender.state == "connected", "a clock that is right")
    sender.close(LONG_S)

"""Delivery over connections that break, hang and refuse."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import LONG_S

from edge.telemetry.address import BrokerAddress
from edge.telemetry.link import Link, Received
from edge.telemetry.outbox import Bounds
from edge.telemetry.sender import Sender
from edge.telemetry.topics import Topics

from .conftest import QUICK, Proxy

TOPICS = Topics("lab", "one")
IMPATIENT: dict[str, Any] = {"timeout_s": 0.3, "keepalive_s": 1}  # with who never answers
COUNT = 300

Eventually = Callable[[Callable[[], bool], str], None]


def _topic(number: int) -> str:
    return TOPICS.of("tele", f"n{number}")


def _collect(listener: Any, count: int) -> list[Any]:
    """Arrivals of ``count`` different messages, duplicates dropped as readers do."""
    arrivals: dict[int, Any] = {}
    while len(arrivals) < count:
        arrival = listener.until(lambda a: a.path.startswith("tele/"), f"message {len(arrivals)}")
        arrivals.setdefault(arrival.envelope.seq, arrival)
    return list(arrivals.values())


def test_messages_arrive_in_order(broker: Any, listen: Any, make_sender: Any) -> None:
    listener = listen()
    sender = make_sender(broker.port)
    for number in range(COUNT):
        sender.send(_topic(number), {"number": number})
    arrivals = _collect(listener, COUNT)
    assert [arrival.metrics["number"] for arrival in arrivals] == list(range(COUNT))


def test_nothing_is_lost_when_connections_break(
    proxy: Any, listen: Any, make_sender: Any, eventually: Eventually
) -> None:
    """The broker lives on, so that all it has acknowledged reaches the listener."""
    listener = listen()
    sender = make_sender(proxy.port)
    eventually(lambda: sender.state == "connected", "a connection")
    for number in range(COUNT):
        sender.send(_topic(number), {"number": number})
        if number % 100 == 50:
            before = len(proxy.connections)
            proxy.cut()
            eventually(lambda before=before: len(proxy.connections) > before, "a new connection")
    arrivals = _collect(listener, COUNT)
    assert sorted(arrival.metrics["number"] for arrival in arrivals) == list(range(COUNT))
    assert sender.backlog.status().dropped_count == 0


def test_what_waited_for_a_connection_is_history(
    broker: Any, listen: Any, make_sender: Any
) -> None:
    listener = listen()
    sender = make_sender(broker.port, is_started=False, bounds=Bounds(fresh_s=0.0))
    sender.send(_topic(0), {})
    sender.start()
    assert _collect(listener, 1)[0].envelope.hist is True
    sender.send(_topic(1), {})
    assert _collect(listener, 1)[0].envelope.hist is False
    sender.close(LONG_S)


def test_what_was_dropped_is_told_when_the_broker_is_back(
    proxy: Any, listen: Any, make_sender: Any, eventually: Eventually
) -> None:
    listener = listen()
    proxy.is_open = False
    sender = make_sender(proxy.port, bounds=Bounds(memory_bytes=5_000))
    eventually(lambda: sender.state == "unreachable", "the absence to be seen")
    for number in range(COUNT):
        sender.send(_topic(number), {"number": number})
        assert sender.backlog.status().waiting_bytes <= 5_000
    dropped = sender.backlog.status().dropped_count
    assert 0 < dropped < COUNT
    proxy.is_open = True
    gap = listener.until(lambda a: a.path == "event/gap", "the gap").metrics["gap"]
    assert (gap["count"], gap["reason"]) == (dropped, "memory")
    assert gap["to"] - gap["from"] == dropped - 1
    kept = _collect(listener, COUNT - dropped)
    assert [arrival.metrics["number"] for arrival in kept] == list(range(dropped, COUNT))
    assert kept[0].envelope.seq == gap["to"] + 1


def test_only_the_newest_retained_value_is_sent(
    proxy: Any, listen: Any, make_sender: Any, eventually: Eventually
) -> None:
    listener = listen()
    proxy.is_open = False
    sender = make_sender(proxy.port)
    eventually(lambda: sender.state == "unreachable", "the absence to be seen")
    for number in range(10):
        sender.retain(TOPICS.of("info"), {"number": number})
    proxy.is_open = True
    assert listener.until(lambda a: a.path == "info").metrics == {"number": 9}


def test_subscription_holds_over_connections_and_a_handler_may_fail(
    mosquitto: Any, make_sender: Any, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = Proxy(mosquitto().port)
    heard: list[bytes] = []

    def hear(received: Received) -> None:
        heard.append(received.payload)
        raise RuntimeError("a defect")

    speaker = make_sender(proxy.port)
    sender = Sender(BrokerAddress("127.0.0.1", proxy.port), Topics("lab", "two"), QUICK)
    sender.listen(f"{TOPICS.of('cmd')}/+", hear)
    sender.start()
    try:
        speaker.retain(TOPICS.of("cmd", "load"), b"one")
        eventually(lambda: heard == [b"one"], "what is retained as it comes")
        proxy.cut()
        eventually(lambda: len(heard) > 1, "it again after a reconnect")
        speaker.retain(TOPICS.of("cmd", "load"), b"")
        eventually(lambda: heard[-1] == b"", "that it is cleared")
        assert sender.state == "connected"
    finally:
        sender.close(LONG_S)
        proxy.close()
    assert "could not be handled" in caplog.text


def test_server_that_never_answers_is_left(
    serve: Any, make_sender: Any, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(lambda data: b"")
    sender = make_sender(server.port, **IMPATIENT)
    eventually(lambda: len(server.connections) >= 3, "it to try again")
    eventually(lambda: sender.reason == "no answer to CONNECT in 0.3 s", "the reason")
    assert sender.state == "unreachable"
    assert len(caplog.records) == 1, caplog.text
    sender.close(0.2)
    eventually(lambda: sender.state == "closed", "its end")


def test_broker_that_stops_answering_is_left_and_nothing_is_lost(
    serve: Any, make_sender: Any, eventually: Eventually
) -> None:
    server = serve(lambda data: b"\x20\x02\0\0" if data[0] == 0x10 else b"")
    sender = make_sender(server.port, window=4, **IMPATIENT)
    eventually(lambda: sender.state == "connected", "the greeting")
    for number in range(20):
        sender.send(_topic(number), {"number": number})
    eventually(lambda: sender.status().in_flight_count == 4, "the window to fill")
    eventually(lambda: len(server.connections) >= 2, "the silence to be noticed")
    sender.close(0.2)
    eventually(lambda: sender.state == "closed", "its end")
    sender.backlog.begin()
    assert all(sender.backlog.take() for _ in range(20))


@pytest.mark.parametrize("code", [2, 5])
def test_refusal_is_told_with_its_reason(
    serve: Any, make_sender: Any, eventually: Eventually, code: int
) -> None:
    server = serve(lambda data: bytes((0x20, 2, 0, code)))
    sender = make_sender(server.port)
    eventually(lambda: sender.state == "refused", "the refusal")
    assert sender.reason.startswith(("Client identifier not valid", "Not authorized"))
    eventually(lambda: len(server.connections) >= 3, "it to try again")


def test_server_that_hangs_up_at_once_is_survived(
    proxy: Any, make_sender: Any, eventually: Eventually
) -> None:
    proxy.is_open = False
    sender = make_sender(proxy.port)
    eventually(lambda: len(proxy.connections) >= 20, "it to try again")
    assert sender.state == "unreachable"


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 64, b"\x20\xff"])
def test_server_that_is_no_broker_is_survived(
    serve: Any, make_sender: Any, eventually: Eventually, reply: bytes
) -> None:
    server = serve(lambda data: reply)
    sender = make_sender(server.port, **IMPATIENT)
    eventually(lambda: len(server.connections) >= 3, "it to try again")
    assert sender.state in ("unreachable", "refused")


def test_defect_costs_a_connection_and_no_other_message(
    broker: Any,
    listen: Any,
    make_sender: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    send, failures = Link.send, iter([RuntimeError("a defect")])

    def fail_once(link: Link, topic: str, *given: Any, **named: Any) -> int:
        if topic == _topic(1):
            for failure in failures:
                raise failure
        return send(link, topic, *given, **named)

    monkeypatch.setattr(Link, "send", fail_once)
    listener = listen()
    sender = make_sender(broker.port)
    for number in range(5):
        sender.send(_topic(number), {"number": number})
    arrived = {arrival.metrics["number"] for arrival in _collect(listener, 4)}
    assert arrived == {0, 2, 3, 4}
    assert "a defect" in caplog.text


def test_host_that_does_not_exist_is_survived(make_sender: Any, eventually: Eventually) -> None:
    sender = Sender(BrokerAddress("no-such-host.invalid"), TOPICS, QUICK)
    sender.start()
    eventually(lambda: sender.state == "unreachable", "the look-up to fail")
    sender.close(0.2)


class Picky:
    """A broker of MQTT 5, as far as a sender sees it, which refuses what it is not ``fond`` of."""

    def __init__(self) -> None:
        self.fond = ""
        self.reason = 0x97  # Quota exceeded
        self.taken: list[int] = []

    def __call__(self, data: bytes) -> bytes:
        answers = b""
        while data:
            length, start = data[1] & 0x7F, 2
            if data[1] >= 0x80:
                length, start = length | data[2] << 7, 3
            packet, data = data[start : start + length], data[start + length :]
            if packet[2:6] == b"MQTT":
                answers += b"\x20\x03\0\0\0"
            elif b"/status" in packet:
                end = 2 + int.from_bytes(packet[:2], "big")
                answers += b"\x40\x03" + packet[end : end + 2] + b"\0"
            elif b"tele/" in packet:
                answers += b"\x40\x03" + self._answer(packet)
        return answers

    def _answer(self, packet: bytes) -> bytes:
        end = 2 + int.from_bytes(packet[:2], "big")
        is_taken = packet[2:end].decode().endswith(self.fond)
        if is_taken:
            self.taken.append(msgspec.json.decode(packet[end + 3 :])["m"]["number"])
        return packet[end : end + 2] + (b"\0" if is_taken else bytes([self.reason]))


def test_message_that_is_refused_stays_and_holds_up_no_other(
    serve: Any, make_sender: Any, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """By its reason code, which only MQTT 5 has."""
    picky = Picky()
    picky.fond = "n10"
    server = serve(picky)
    sender = make_sender(server.port, version="5", window=4)
    for number in range(11):
        sender.send(_topic(number), {"number": number})
    eventually(lambda: picky.taken == [10], "the one that it likes")
    refused = [record.message for record in caplog.records if "refused" in record.message]
    assert refused == [f"the broker refused a message to {_topic(0)}: Quota exceeded"]
    picky.fond = ""
    server.cut()
    eventually(lambda: len(picky.taken) == 11, "the others")
    assert picky.taken[1:] == list(range(10))


def test_messages_of_a_dead_process_are_delivered_by_the_next(
    broker: Any, listen: Any, make_sender: Any, tmp_path: Path
) -> None:
    listener = listen()
    sender = make_sender(broker.port, is_started=False, folder=tmp_path)
    for number in range(5):
        sender.send(_topic(number), {"number": number})
    assert sender.backlog.commit()
    sender.backlog._outbox._files.release()  # as the end of a process does
    sender._waker.close()
    again = make_sender(broker.port, folder=tmp_path)
    again.send(_topic(5), {"number": 5})
    arrivals = _collect_all(listener, 6)
    assert [arrival.metrics["number"] for arrival in arrivals] == list(range(6))
    assert [arrival.envelope.hist for arrival in arrivals[:5]] == [True] * 5


def test_close_leaves_long_history_to_the_next_run_and_says_goodbye(
    broker: Any, listen: Any, make_sender: Any, tmp_path: Path
) -> None:
    listener = listen()
    bounds = Bounds(fresh_s=0.0, history_burst=3, history_per_s=1e-6)
    sender = make_sender(broker.port, is_started=False, folder=tmp_path, bounds=bounds)
    for number in range(20):
        sender.send(_topic(number), {"number": number})
    sender.start()
    first = [arrival.metrics["number"] for arrival in _collect_all(listener, 3)]
    sender.close(6.0)  # half of it for the history
    goodbye = listener.until(lambda a: a.path == "status" and a.metrics["state"] == "offline")
    assert goodbye.metrics["reason"] == "closed"
    make_sender(broker.port, folder=tmp_path)
    rest = [arrival.metrics["number"] for arrival in _collect_all(listener, 17)]
    assert first + rest == list(range(20))


def _collect_all(listener: Any, count: int) -> list[Any]:
    return [
        listener.until(lambda a: a.path.startswith("tele/"), f"message {number}")
        for number in range(count)
    ]


def test_message_that_will_never_be_taken_is_given_up_and_told(
    serve: Any, make_sender: Any, eventually: Eventually
) -> None:
    picky = Picky()
    picky.fond, picky.reason = "n1", 0x90
    sender = make_sender(serve(picky).port, version="5")
    for number in range(2):
        sender.send(_topic(number), {"number": number})
    eventually(lambda: picky.taken == [1], "the other")
    eventually(lambda: sender.backlog.status().dropped_count == 1, "it to be given up")
    sender.backlog.begin()
    (gap,) = [message for message in iter(sender.backlog.take, None) if message.topic == TOPICS.gap]
    assert b'"reason":"refused"' in gap.payload
    assert b"Topic name invalid" in gap.payload

from __future__ import annotations

import logging
import socket
import threading

import pytest
from patience import LONG_S

from edge.core.errors import UnavailableError
from edge.telemetry.address import parse_address
from edge.telemetry.broker import EmbeddedBroker
from edge.telemetry.link import Link
from edge.telemetry.watcher import Watcher


def test_two_brokers_take_two_free_ports() -> None:
    with EmbeddedBroker() as one, EmbeddedBroker() as other:
        assert 0 < one.port != other.port > 0
        assert one.url == f"mqtt://127.0.0.1:{one.port}"


def test_broker_listens_on_the_loopback_interface_until_closed() -> None:
    with EmbeddedBroker() as broker:
        socket.create_connection(("127.0.0.1", broker.port), timeout=LONG_S).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", broker.port), timeout=LONG_S)


def test_closed_broker_leaves_no_thread_and_frees_its_port() -> None:
    before = set(threading.enumerate())
    with EmbeddedBroker() as broker:
        port = broker.port
    broker.close()
    assert set(threading.enumerate()) <= before
    with EmbeddedBroker(port) as again:
        assert again.port == port


def test_taken_port_is_an_error_with_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=str(port)) as caught:
            EmbeddedBroker(port)
    assert "free" in caught.value.hint


def test_closed_broker_ends_the_connections_of_its_clients() -> None:
    with EmbeddedBroker() as broker:
        link = Link(parse_address(broker.url), timeout_s=LONG_S)
        link.open()
        while link.state == "connecting":
            link.step(LONG_S)
    assert link.state == "connected"
    link.step(LONG_S)
    assert link.state == "ended"


def test_broker_survives_a_client_that_talks_nonsense_and_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG), EmbeddedBroker() as broker:
        with socket.create_connection(("127.0.0.1", broker.port), timeout=LONG_S) as connection:
            connection.sendall(b"this is no MQTT packet")
        with Watcher(broker.url, timeout_s=LONG_S) as watcher:
            assert watcher.is_connected
    assert not [record for record in caplog.records if record.name.startswith("amqtt")]

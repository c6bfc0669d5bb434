"""TLS to real brokers: what is accepted, and how each refusal is told."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from patience import LONG_S

from edge.telemetry import tls
from edge.telemetry.address import BrokerAddress, TlsFiles
from edge.telemetry.link import Link

MANY = 60


def _connect(port: int, host: str = "127.0.0.1", **files: Any) -> Link:
    paths = TlsFiles(**{name: str(path) for name, path in files.items()})
    link = Link(BrokerAddress(host, port, tls=paths), timeout_s=LONG_S, version="5")
    link.open()
    while link.state == "connecting":
        link.step(LONG_S)
    return link


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict on our certificate is awaited, however late it comes."""
    monkeypatch.setattr(tls, "_VERDICT_S", LONG_S)


@pytest.fixture
def tls_broker(mosquitto: Any, authority: Any) -> Callable[..., int]:
    """Starts brokers with TLS; gives their port."""

    def start(*options: str, names: str = "IP:127.0.0.1,DNS:localhost", days: int = 2) -> int:
        certificate, key = authority().sign(f"broker{days}{hash(names)}", names, days)
        started = mosquitto(f"certfile {certificate}", f"keyfile {key}", *options)
        return int(started.port)

    return start


def test_messages_go_both_ways_over_tls(tls_broker: Any, authority: Any) -> None:
    """Also those that TLS has read already while the socket is silent."""
    link = _connect(tls_broker(), ca=authority().ca)
    assert link.state == "connected", link.reason
    link.subscribe("t/#")
    payloads = [bytes([number]) * 100 for number in range(MANY)]
    for payload in payloads:
        link.send("t", payload, is_retained=False, qos=0)
    while link.is_open and len(link.received) < MANY:
        link.step(LONG_S)
    assert [message.payload for message in link.received] == payloads
    link.disconnect()


def test_broker_that_demands_a_certificate_takes_ours(tls_broker: Any, authority: Any) -> None:
    ca = authority().ca
    port = tls_broker(f"cafile {ca}", "require_certificate true", "use_identity_as_username true")
    certificate, key = authority().sign("device-1")
    link = _connect(port, ca=ca, certificate=certificate, key=key)
    assert link.state == "connected", link.reason
    link.disconnect()


def test_unknown_ca_is_told(tls_broker: Any, authority: Any) -> None:
    port = tls_broker()
    of_the_system = _connect(port)
    assert (of_the_system.state, of_the_system.received) == (
        "ended",
        type(of_the_system.received)(),
    )
    assert "a CA that the system does not know" in of_the_system.reason
    other = authority("another").ca
    assert f"a CA that {other} does not know" in _connect(port, ca=other).reason
    assert "name the file with its CA as ca" in _connect(port, ca=other).reason


def test_expired_certificate_is_told_with_our_clock(tls_broker: Any, authority: Any) -> None:
    reason = _connect(tls_broker(days=-1), ca=authority().ca).reason
    assert "certificate has expired; the clock here says 20" in reason


@pytest.mark.parametrize(
    ("names", "host"), [("DNS:elsewhere", "localhost"), ("DNS:localhost", "127.0.0.1")]
)
def test_wrong_host_name_is_told(tls_broker: Any, authority: Any, names: str, host: str) -> None:
    reason = _connect(tls_broker(names=names), host, ca=authority().ca).reason
    assert f"its certificate is not for '{host}'" in reason


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_missing_client_certificate_is_told(tls_broker: Any, authority: Any, version: str) -> None:
    ca = authority().ca
    port = tls_broker(f"cafile {ca}", "require_certificate true", f"tls_version {version}")
    link = _connect(port, ca=ca)
    assert link.state == "ended"
    assert "certificate and key in [mqtt]" in link.reason


@pytest.mark.parametrize(("of", "days"), [("another", 2), ("ours", -1)])
def test_refused_client_certificate_is_told(
    tls_broker: Any, authority: Any, of: str, days: int
) -> None:
    ca = authority().ca
    port = tls_broker(f"cafile {ca}", "require_certificate true")
    certificate, key = authority(of).sign(f"device{days}", days=days)
    link = _connect(port, ca=ca, certificate=certificate, key=key)
    assert link.state == "ended"
    assert "it refuses our client certificate" in link.reason


def test_plain_broker_behind_a_tls_url_is_told(mosquitto: Any, authority: Any) -> None:
    reason = _connect(mosquitto().port, ca=authority().ca).reason
    assert "does not talk TLS on this port; without TLS it is mqtt://" in reason


def test_server_that_never_answers_the_handshake_is_left(authority: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        files = TlsFiles(ca=str(authority().ca))
        address = BrokerAddress("127.0.0.1", server.getsockname()[1], tls=files)
        link = Link(address, timeout_s=0.2)
        link.open()
    assert "no answer to the TLS handshake" in link.reason


def test_absent_broker_is_no_fault_of_tls(authority: Any) -> None:
    assert _connect(free_port(), ca=authority().ca).reason == "Connection refused"


def test_tls_broker_behind_a_plain_url_is_told(tls_broker: Any) -> None:
    link = Link(BrokerAddress("127.0.0.1", tls_broker()))
    link.open()
    while link.state == "connecting":
        link.step(LONG_S)
    assert "hung up before it answered" in link.reason
    assert "mqtts://" in link.reason


@pytest.fixture
def pems(authority: Any, tmp_path: Path) -> dict[str, Path]:
    certificate, key = authority().sign("device-1")
    _, other = authority().sign("device-2")
    encrypted, nonsense = tmp_path / "encrypted.key", tmp_path / "nonsense.pem"
    command = ("ec", "-in", str(key), "-aes128", "-passout", "pass:word", "-out", str(encrypted))
    authority()._run(*command)
    nonsense.write_text("nonsense")
    known = {"ca": authority().ca, "certificate": certificate, "key": key, "other": other}
    return {**known, "encrypted": encrypted, "nonsense": nonsense, "absent": tmp_path / "absent"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"ca": "absent"}, "can not read {absent}: No such file or directory"),
        ({"ca": "nonsense"}, "{nonsense} holds no certificate of a CA in PEM"),
        ({"certificate": "certificate", "key": "absent"}, "can not read {absent}: No such"),
        ({"certificate": "certificate", "key": "other"}, "the key {other} does not belong to"),
        ({"certificate": "certificate", "key": "encrypted"}, "its unencrypted key in PEM"),
        ({"certificate": "nonsense", "key": "key"}, "{nonsense} and {key} are no certificate"),
        ({"certificate": "certificate"}, "are no certificate and its unencrypted key"),
    ],
)
def test_file_that_can_not_be_used_is_the_reason(
    pems: dict[str, Path], files: dict[str, str], reason: str
) -> None:
    link = _connect(1, **{name: pems[kind] for name, kind in files.items()})
    assert link.state == "ended"
    assert reason.format(**pems) in link.reason


def test_file_that_is_mended_is_read_again(tls_broker: Any, authority: Any, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    port = tls_broker()
    assert "can not read" in _connect(port, ca=ca).reason
    ca.write_bytes(authority().ca.read_bytes())
    link = _connect(port, ca=ca)
    assert link.state == "connected"
    link.disconnect()


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 1), (0o604, 1)])
def test_key_that_others_can_read_is_warned_of_once(
    pems: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    mode: int,
    warnings: int,
) -> None:
    key = tmp_path / "device.key"
    key.write_bytes(pems["key"].read_bytes())
    os.chmod(key, mode)
    for _ in range(3):
        tls.context(TlsFiles(certificate=str(pems["certificate"]), key=str(key)))
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"the key {key} can be read by others: chmod 600 {key}"] * warnings


@pytest.mark.parametrize("cut", [1, 40])
def test_broker_that_vanishes_amid_the_handshake_is_told(authority: Any, cut: int) -> None:
    """After some bytes of a record that promised more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall((b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76" + bytes(200))[:cut])
            connection.close()

        answering = threading.Thread(target=answer)
        answering.start()
        link = _connect(server.getsockname()[1], ca=authority().ca)
        answering.join()
    assert "hung up during the TLS handshake" in link.reason


@pytest.mark.parametrize(("mode", "warnings"), [(0o640, 0), (0o644, 1)])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to own a key")
def test_key_that_root_lends_by_the_group_is_fine(
    pems: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    warnings: int,
) -> None:
    os.chmod(pems["key"], mode)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    tls.context(TlsFiles(certificate=str(pems["certificate"]), key=str(pems["key"])))
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == warnings

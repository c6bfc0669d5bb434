"""The broker's URL."""

from __future__ import annotations

from typing import Any

import pytest

from edge.core.errors import SettingsError
from edge.settings import Mqtt
from edge.telemetry.address import (
    BrokerAddress,
    TlsFiles,
    addresses,
    brokers_of,
    parse_address,
)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://broker.lan", BrokerAddress("broker.lan", 1883)),
        ("mqtt://10.0.0.5:1884/", BrokerAddress("10.0.0.5", 1884)),
        ("mqtt://[fe80::1]:1884", BrokerAddress("fe80::1", 1884)),
        ("mqtts://broker.lan", BrokerAddress("broker.lan", 8883, tls=TlsFiles())),
        ("mqtt://ann:p%40ss%2F@host", BrokerAddress("host", 1883, "ann", "p@ss/")),
    ],
)
def test_address_is_read(url: str, address: BrokerAddress) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker.lan",
        "http://broker.lan",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://host:0",
        "mqtt://host:99999",
        "mqtt://host:port",
        "mqtt://[::1",
        "mqtt://host/topic",
        "mqtt://host?tls=1",
        "mqtt://one,two",
    ],
)
def test_wrong_url_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_address(url)
    assert "mqtt://broker.lan" in caught.value.hint


@pytest.mark.parametrize(
    "several",
    [
        "mqtt://one,mqtts://a,b:p@two",
        " mqtt://one , mqtts://a,b:p@two",
        ["mqtt://one", "mqtts://a,b:p@two"],
        (BrokerAddress("one"), "mqtts://a,b:p@two"),
    ],
)
def test_several_brokers_keep_their_order(several: Any) -> None:
    files = TlsFiles(ca="ca.pem")
    two = BrokerAddress("two", 8883, "a,b", "p", files)
    assert addresses(several, files) == (BrokerAddress("one"), two)


@pytest.mark.parametrize("nobody", ["", [], "mqtt://one,"])
def test_no_broker_is_refused(nobody: Any) -> None:
    with pytest.raises(SettingsError):
        addresses(nobody)


def test_files_for_tls_are_warned_of_where_no_broker_has_tls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = {"ca": "ca.pem", "certificate": "one.crt", "key": "one.key"}
    (address,) = brokers_of(Mqtt(url="mqtts://host", **files))
    assert address.tls == TlsFiles(**files)
    assert not caplog.records
    assert brokers_of(Mqtt(url="mqtt://host", ca="ca.pem")) == (BrokerAddress("host"),)
    assert "mqtt://host:1883 is without it: that is mqtts://" in caplog.text


@pytest.mark.parametrize("url", ["mqtt://ann:secret@h/x", "mqtt://ann:secret@h:x", "m://a:secret@"])
def test_password_is_never_shown(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)
    address = BrokerAddress("::1", 1883, "ann", "secret")
    assert (str(address), repr(address)) == ("mqtt://[::1]:1883",) * 2
    assert str(parse_address("mqtts://ann:secret@host")) == "mqtts://host:8883"

"""The broker's URL."""

from __future__ import annotations

import pytest

from edge.core.errors import SettingsError
from edge.telemetry.address import BrokerAddress, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://broker.lan", BrokerAddress("broker.lan", 1883)),
        ("mqtt://10.0.0.5:1884/", BrokerAddress("10.0.0.5", 1884)),
        ("mqtt://[fe80::1]:1884", BrokerAddress("fe80::1", 1884)),
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
    ],
)
def test_wrong_url_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_address(url)
    assert "mqtt://broker.lan" in caught.value.hint


def test_tls_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="TLS"):
        parse_address("mqtts://broker.lan")


@pytest.mark.parametrize("url", ["mqtt://ann:secret@h/x", "mqtt://ann:secret@h:x", "m://a:secret@"])
def test_password_is_never_shown(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)
    address = BrokerAddress("::1", 1883, "ann", "secret")
    assert (str(address), repr(address)) == ("mqtt://[::1]:1883",) * 2

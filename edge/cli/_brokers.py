"""The brokers that a command talks to: those of ``edge.toml``, or what ``--mqtt`` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edge.core.errors import SettingsError
from edge.settings import Mqtt, load_settings

if TYPE_CHECKING:
    from edge.telemetry.address import BrokerAddress


def mqtt_settings(url: str | None, command: str) -> Mqtt:
    """``[mqtt]`` with the flag laid over it, whose certificates are those of the file.

    Args:
        command: The one that says what is missing, without ``edge``.
    Raises:
        SettingsError: No broker is named anywhere.
    """
    settings = load_settings().mqtt
    if url:
        settings = msgspec.structs.replace(settings, url=url)
    if not settings.url:
        raise SettingsError(
            "no MQTT broker is named", hint=f"give one: edge {command} --mqtt mqtt://HOST:1883"
        )
    return settings


def named_brokers(url: str | None, command: str) -> tuple[BrokerAddress, ...]:
    """The same as addresses to connect to; raises ``SettingsError`` for what is none."""
    from edge.telemetry.address import brokers_of

    return brokers_of(mqtt_settings(url, command))

"""Where the broker is, and who we are to it."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import msgspec

from edge.core.errors import SettingsError

DEFAULT_PORT = 1883
_HINT = "write it like mqtt://broker.lan or mqtt://user:password@10.0.0.5:1883"


class BrokerAddress(msgspec.Struct, frozen=True):
    """``str()`` of it shows no password."""

    host: str
    port: int = DEFAULT_PORT
    user: str = ""
    password: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{host}:{self.port}"

    __repr__ = __str__


def parse_address(url: str) -> BrokerAddress:
    """Read ``mqtt://[user:password@]host[:port]``; special characters are percent-encoded.

    Raises:
        SettingsError: It is something else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # its text may hold the password
        raise SettingsError("the broker's URL has a wrong host or port", hint=_HINT) from error
    if parts.scheme == "mqtts":
        raise SettingsError(
            "TLS to the broker (mqtts://) is not supported yet",
            hint="use mqtt:// inside a trusted network, or through a tunnel",
        )
    extra = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme != "mqtt" or not parts.hostname or extra or port == 0:
        shown = url.rpartition("@")[2]
        raise SettingsError(f"{shown!r} is not the URL of an MQTT broker", hint=_HINT)
    return BrokerAddress(
        host=parts.hostname,
        port=port or DEFAULT_PORT,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )

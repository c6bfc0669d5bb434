"""Where the brokers are, and who we are to them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from edge.core.errors import SettingsError

if TYPE_CHECKING:
    from edge.settings import Mqtt

log = logging.getLogger(__name__)

DEFAULT_PORT = 1883
TLS_PORT = 8883
_HINT = "write it like mqtt://broker.lan or mqtts://user:password@10.0.0.5:8883"
_BETWEEN = re.compile(r"\s*,\s*(?=\w+://)")  # a comma elsewhere may be part of a password


class TlsFiles(msgspec.Struct, frozen=True):
    """Paths of PEM files: whom to believe (empty: whom the system does), and who we are."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


class BrokerAddress(msgspec.Struct, frozen=True):
    """``str()`` of it shows no password."""

    host: str
    port: int = DEFAULT_PORT
    user: str = ""
    password: str = ""
    tls: TlsFiles | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"

    __repr__ = __str__


Brokers = str | Sequence[str | BrokerAddress]
"""What users may name brokers with: URLs in one string, commas between them, or a list."""


def addresses(brokers: Brokers, tls: TlsFiles | None = None) -> tuple[BrokerAddress, ...]:
    """The brokers in the order in which they are to be tried.

    Args:
        tls: What those of ``mqtts://`` go by.
    Raises:
        SettingsError: One is something else, or there is none.
    """
    named = _BETWEEN.split(brokers.strip()) if isinstance(brokers, str) else brokers
    found = tuple(parse_address(one, tls) if isinstance(one, str) else one for one in named)
    if not found:
        raise SettingsError("no MQTT broker is named", hint=_HINT)
    return found


def brokers_of(settings: Mqtt) -> tuple[BrokerAddress, ...]:
    """The brokers that are set.

    Raises:
        SettingsError: One is something else, or there is none.
    """
    files = TlsFiles(settings.ca, settings.certificate, settings.key)
    found = addresses(settings.url, files)
    if files != TlsFiles() and not any(address.tls for address in found):
        log.warning("[mqtt] has files for TLS, and %s is without it: that is mqtts://", found[0])
    return found


def parse_address(url: str, tls: TlsFiles | None = None) -> BrokerAddress:
    """Read ``mqtt[s]://[user:password@]host[:port]``; special characters are percent-encoded.

    Raises:
        SettingsError: It is something else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # its text may hold the password
        raise SettingsError("the broker's URL has a wrong host or port", hint=_HINT) from error
    extra = parts.path not in ("", "/") or parts.query or parts.fragment
    host = parts.hostname or ""
    if parts.scheme not in ("mqtt", "mqtts") or not host or "," in host or extra or port == 0:
        shown = url.rpartition("@")[2]
        raise SettingsError(f"{shown!r} is not the URL of an MQTT broker", hint=_HINT)
    is_tls = parts.scheme == "mqtts"
    return BrokerAddress(
        host=host,
        port=port or (TLS_PORT if is_tls else DEFAULT_PORT),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=(tls or TlsFiles()) if is_tls else None,
    )

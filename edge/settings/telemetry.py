"""``[mqtt]``: the broker, and who we are to it."""

from __future__ import annotations

import socket
from typing import Annotated, Literal

import msgspec

MEMORY = "memory"

_Positive = msgspec.Meta(gt=0)


class Mqtt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker (``mqtt://[user:password@]host[:port]``, empty = no telemetry) and identity.

    ``url`` may name several, in a list or with commas between them: they are tried in order, and
    the first is returned to once it answers again. ``mqtts://`` is TLS, and always verified: by
    the authorities in the file ``ca`` (empty: those of the system); ``certificate`` and ``key``
    are ours, for brokers that ask for one. All are PEM, and read again for each connection.

    What waits for the broker is in the folder ``outbox`` (empty: one in ``$XDG_STATE_HOME/edge``,
    "memory": it is lost with the process). ``version`` is that of the protocol. ``formats`` are
    files of ``edge/telemetry/formats``; ``json`` and ``sparkplug`` wait for a broker that is away.
    """

    url: str | tuple[str, ...] = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    version: Literal["3.1.1", "5"] = "3.1.1"
    outbox: str = ""
    fleet: str = "default"
    device: str = ""
    interval_s: Annotated[float, _Positive] = 5.0
    keepalive_s: Annotated[int, _Positive] = 30
    formats: tuple[str, ...] = ("json",)

    def __post_init__(self) -> None:
        if self.key and not self.certificate:
            raise ValueError("key needs a certificate, which it belongs to")

    @property
    def device_name(self) -> str:
        return self.device or socket.gethostname()

"""``[mqtt]``: the broker, and who we are to it."""

from __future__ import annotations

import socket
from typing import Annotated, Literal

import msgspec

MEMORY = "memory"

_Positive = msgspec.Meta(gt=0)


class Mqtt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker (``mqtt://[user:password@]host[:port]``, empty = no telemetry) and identity.

    What waits for the broker is in the folder ``outbox`` (empty: one in ``$XDG_STATE_HOME/edge``,
    "memory": it is lost with the process). ``version`` is that of the protocol. ``formats`` are
    files of ``edge/telemetry/formats``; only ``json`` waits for a broker that is not there.
    """

    url: str = ""
    version: Literal["3.1.1", "5"] = "3.1.1"
    outbox: str = ""
    fleet: str = "default"
    device: str = ""
    interval_s: Annotated[float, _Positive] = 5.0
    keepalive_s: Annotated[int, _Positive] = 30
    formats: tuple[str, ...] = ("json",)

    @property
    def device_name(self) -> str:
        return self.device or socket.gethostname()

"""``[sparkplug]``: who we are to Sparkplug hosts."""

from __future__ import annotations

import msgspec

_FORBIDDEN = "+#/\0"


class Sparkplug(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the format ``sparkplug``; it goes to the brokers of ``[mqtt]``.

    ``group`` and ``node`` are the fleet and the device of ``[mqtt]`` if they are empty. With a
    ``primary_host`` the node is silent until that host says that it is there.
    """

    group: str = ""
    node: str = ""
    primary_host: str = ""

    def __post_init__(self) -> None:
        for key in ("group", "node", "primary_host"):
            name = getattr(self, key)
            if any(character in name for character in _FORBIDDEN):
                raise ValueError(f"{key} {name!r} has one of + # /, which no topic may have")

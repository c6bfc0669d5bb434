"""How much and how long a client may."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one client.

    ``slowest_bytes_per_s`` is added to ``patience_s`` for what is large. ``align_after`` is a
    header field that says after how many bytes of the body its bulk starts.
    """

    max_body_bytes: int
    max_connections: int = 512
    patience_s: float = 30.0
    slowest_bytes_per_s: int = 8 * 1024
    idle_s: float = 300.0
    linger_s: float = 5.0
    align_after: bytes = b""

"""Whether the host that an edge node waits for is there, by what it says of itself."""

from __future__ import annotations

import msgspec

from edge.telemetry.formats._sparkplug.session import NAMESPACE


class _State(msgspec.Struct):
    online: bool
    timestamp: int


class PrimaryHost:
    """What it said last at each broker; older words, which a broker may keep, do not count."""

    def __init__(self, name: str) -> None:
        self.topic = f"{NAMESPACE}/STATE/{name}"
        self._timestamps: dict[str, int] = {}

    def take(self, payload: bytes, broker: str) -> bool | None:
        """Whether it is online; None when that is not to be believed."""
        try:
            state = msgspec.json.decode(payload, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if state.timestamp < self._timestamps.get(broker, state.timestamp):
            return None
        self._timestamps[broker] = state.timestamp
        return state.online

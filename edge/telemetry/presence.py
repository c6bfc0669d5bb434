"""What we let be known of ourselves under ``status``: online, offline, or lost."""

from __future__ import annotations

from typing import Any

from edge.telemetry.envelope import Envelope, Sealer, encode
from edge.telemetry.link import Will


class Presence:
    """Makes a will for each connection, and what is said once that has begun.

    A will uses up a number though it may never be sent: ``online`` names it, so that a reader who
    counts misses nothing. A connection that failed leaves its will to the next.
    """

    def __init__(self, topic: str, sealer: Sealer) -> None:
        self._topic = topic
        self._sealer = sealer
        self._will: Envelope | None = None

    def will(self) -> Will:
        """For the next connection."""
        if self._will is None:
            self._will = self._sealer.seal({"state": "offline", "reason": "connection lost"})
        return Will(self._topic, encode(self._will))

    def online(self) -> dict[str, Any]:
        """A broker has accepted us, and keeps the will."""
        will, self._will = self._will, None
        return {"state": "online", "will_seq": will.seq if will else 0}

"""How it stands with the brokers; the log is told when that changes."""

from __future__ import annotations

import logging

from edge.telemetry.rotation import Rotation

log = logging.getLogger(__name__)


class Standing:
    """``state``: ``connecting``, ``connected``, ``unreachable``, ``refused`` or ``closed``.

    Its logger's lines are one for each change of state or broker, not for each try.
    """

    def __init__(self, rotation: Rotation) -> None:
        self.state = "connecting"
        self.reason = ""
        self._rotation = rotation
        self._told = ("connecting", "")

    def connected(self) -> None:
        """To the broker whose turn it is."""
        self.state, self.reason = "connected", ""
        broker = str(self._rotation.current)
        before, self._told = self._told, ("connected", broker)
        if before == self._told:
            return
        if self._rotation.place:
            why = self._rotation.why(self._rotation.place)
            log.warning("telemetry goes to %s, as another is not there: %s", broker, why)
        elif before[0] == "connecting":
            log.info("telemetry goes to %s", broker)
        else:
            log.warning("telemetry goes to %s again", broker)

    def failed(self, *, is_refused: bool) -> None:
        """None of the brokers took us, in a whole round."""
        self.state, self.reason = "refused" if is_refused else "unreachable", self._rotation.why()
        before, self._told = self._told, (self.state, "")
        if before != self._told:
            who = ", ".join(map(str, self._rotation.brokers))
            does = "refuses us" if is_refused else "is unreachable"
            log.warning("no telemetry: broker %s %s: %s", who, does, self.reason)

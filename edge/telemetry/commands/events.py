"""``event/command``: ends of commands for who keeps a record, and what could not be answered."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from edge.telemetry.commands.order import Key, shown

if TYPE_CHECKING:
    from edge.telemetry.sender import Sender
    from edge.telemetry.topics import Topics

log = logging.getLogger(__name__)

_REFUSED_AT_ONCE = 20
_REFUSED_PER_S = 0.2
"""Who sends nonsense without end is not to wear the flash out: events of refusals are so many, and
say how many were left out."""


class Events:
    """One thread uses it; what it tells is in the outbox, and goes when the broker is there."""

    def __init__(self, sender: Sender, topics: Topics) -> None:
        self._sender = sender
        self._topic = topics.of("event", "command")
        self._allowed = float(_REFUSED_AT_ONCE)
        self._looked_s = time.monotonic()
        self._left_out_count = 0

    def ended(self, key: Key, fields: dict[str, Any], end: dict[str, Any]) -> None:
        """A command that began has ended; told again after a restart if nobody may have heard."""
        self._send(key, {"model": fields["model"]} if "model" in fields else {}, end)

    def refused(self, key: Key, end: dict[str, Any]) -> None:
        if self._is_allowed():
            self._send(key, {"is_refused": True}, end)

    def oddity(self, topic: str, reason: str) -> None:
        """Something came that no answer can be given to."""
        if self._is_allowed():
            log.warning("%s: %s", shown(topic), reason)
            self._send((shown(topic), ""), {"is_refused": True}, {"reason": reason})

    def _send(self, key: Key, more: dict[str, Any], end: dict[str, Any]) -> None:
        told = {name: value for name, value in end.items() if name != "result"}
        name, id_ = (shown(part) for part in key)
        left_out, self._left_out_count = self._left_out_count, 0
        if left_out:
            more = {**more, "left_out_count": left_out}
        metrics = {"name": name, "id": id_, **more, **told}
        self._sender.send(self._topic, metrics, is_event=True)

    def _is_allowed(self) -> bool:
        now_s = time.monotonic()
        earned = (now_s - self._looked_s) * _REFUSED_PER_S
        self._allowed, self._looked_s = min(_REFUSED_AT_ONCE, self._allowed + earned), now_s
        if self._allowed < 1.0:
            self._left_out_count += 1
            return False
        self._allowed -= 1.0
        return True

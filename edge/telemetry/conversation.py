"""What is said over one connection: retained values, what waits, and in the end goodbye."""

from __future__ import annotations

import logging
from typing import Any

from edge.telemetry.backlog import Backlog, Message
from edge.telemetry.link import Link
from edge.telemetry.retained import Retained
from edge.telemetry.suspect import Suspect
from edge.telemetry.topics import Topics

log = logging.getLogger(__name__)

TOO_LARGE, REFUSED = "too large", "refused"
_FINAL = ("Topic name invalid", "Payload format invalid")
"""Of MQTT 5's reasons: it will not be taken later either. For all others, it may be."""


class Conversation:
    """One connection's part of a `Sender`, on whose thread it is."""

    def __init__(
        self, link: Link, topics: Topics, backlog: Backlog, retained: Retained, suspect: Suspect
    ) -> None:
        self.in_flight: dict[int, Message] = {}
        self._link = link
        self._topics = topics
        self._backlog = backlog
        self._retained = retained
        self._suspect = suspect
        self._has_been_heard = False
        self._has_been_rejected = False
        self._has_said_goodbye = False
        self._told: set[str] = set()

    def begin(self, status: dict[str, Any]) -> None:
        """The broker has accepted us: ``status`` is told first."""
        self._backlog.begin()
        self._retained.set(self._topics.status, status)
        self._retained.begin(self._topics.status)

    def hand_over(self, window: int) -> None:
        """Send what there is, as long as fewer than ``window`` messages are on their way."""
        window = self._suspect.window(window)
        while len(self.in_flight) < window and self._link.is_open:
            if retained := self._retained.take():
                self._send(retained, is_retained=True)
            elif message := self._backlog.take():
                self._send(message)
            else:
                return

    def settle(self) -> None:
        """Take note of the broker's answers."""
        for number in self._link.acknowledged():
            message = self.in_flight.pop(number, None)
            if message is not None:
                self._has_been_heard = True
                self._suspect.taken(message)
                if message.number:
                    self._backlog.acknowledge(message.number)
        for number, reason in self._link.rejected():
            message = self.in_flight.pop(number, None)
            if message is not None:
                self._rejected(message, reason)

    def leave(self, reason: str) -> bool:
        """Say goodbye once all is answered; whether we are gone."""
        if self._link.state != "connected" or self.in_flight:
            return False
        if self._has_said_goodbye:
            self._link.disconnect()
            return True
        self._has_said_goodbye = True
        offline = {"state": "offline", "reason": reason}
        self._send(self._retained.sealed(self._topics.status, offline), is_retained=True)
        return False

    def end(self) -> None:
        """What was not answered waits again, but for a message at which the broker hangs up."""
        if self._link.has_been_cut:
            in_flight = list(self.in_flight.values())
            message = self._suspect.cut(in_flight, has_taken=self._has_been_heard)
            if message is not None:
                why = f"ended the connection each time it got these {len(message.payload)} bytes"
                self._give_up(message, REFUSED, f"{self._link.address} {why}")
        self.in_flight.clear()
        self._backlog.end()

    def _send(self, message: Message, *, is_retained: bool = False) -> None:
        size, most = (
            self._link.packet_bytes(message.topic, message.payload),
            self._link.max_packet_bytes,
        )
        if most is not None and size > most:
            self._give_up(message, TOO_LARGE, f"{size} bytes; {self._link.address} takes {most}")
            return
        try:
            number = self._link.send(message.topic, message.payload, is_retained=is_retained)
        except Exception:  # no connection would take it, and it would hold up all others
            if message.number:
                self._backlog.acknowledge(message.number)
            raise
        self.in_flight[number] = message

    def _rejected(self, message: Message, reason: str) -> None:
        """What may be taken later stays, and goes again with the next connection."""
        if reason in _FINAL:
            self._give_up(message, REFUSED, f"{self._link.address}: {reason}")
        elif not self._has_been_rejected:
            self._has_been_rejected = True
            log.warning("the broker refused a message to %s: %s", message.topic, reason)

    def _give_up(self, message: Message, reason: str, why: str) -> None:
        level = logging.DEBUG if message.topic in self._told else logging.WARNING
        self._told.add(message.topic)  # else it would be a line for each interval
        log.log(level, "a message to %s is given up: %s", message.topic, why)
        if not message.number:
            self._retained.refuse(message.topic)
        elif message.topic == self._topics.gap:  # to tell of it would be another
            self._backlog.acknowledge(message.number)
        else:
            self._backlog.give_up(message, reason, why)

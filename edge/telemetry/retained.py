"""What the broker is to keep: of each topic the newest value."""

from __future__ import annotations

import threading
from typing import Any

from edge.telemetry.backlog import Message
from edge.telemetry.envelope import Sealer, encode

Value = dict[str, Any] | bytes
"""Metrics, which go in an envelope, or bytes as they are."""


class Retained:
    """Sent on change and again with each connection; any thread may set, one takes."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._values: dict[str, Value] = {}
        self._unsent: dict[str, None] = {}  # in the order of their change
        self._taken: dict[str, Value] = {}
        self._refused: dict[str, Value] = {}
        self._lock = threading.Lock()

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def set(self, topic: str, value: Value) -> bool:
        """Whether it was another value before."""
        with self._lock:
            if self._values.get(topic) == value:
                return False
            self._values[topic] = value
            self._unsent[topic] = None
            return True

    def release(self, topic: str) -> None:
        with self._lock:
            self._values.pop(topic, None)
            self._unsent.pop(topic, None)

    def repeat(self, topic: str) -> None:
        with self._lock:
            if topic in self._values:
                self._unsent[topic] = None

    def begin(self, first: str) -> None:
        """All goes again with a new connection, but for what was refused."""
        with self._lock:
            wanted = (
                topic
                for topic, value in self._values.items()
                if topic not in self._refused or self._refused[topic] != value
            )
            self._unsent = {first: None, **dict.fromkeys(wanted)}

    def take(self) -> Message | None:
        with self._lock:
            if not self._unsent:
                return None
            topic = next(iter(self._unsent))
            del self._unsent[topic]
            value = self._taken[topic] = self._values.get(topic, {})
        return self.sealed(topic, value)

    def sealed(self, topic: str, value: Value) -> Message:
        return Message(
            topic, value if isinstance(value, bytes) else encode(self._sealer.seal(value))
        )

    def refuse(self, topic: str) -> None:
        """The broker does not want what was taken last; another value may do."""
        if topic in self._taken:
            self._refused[topic] = self._taken[topic]

    def forgive(self) -> None:
        """Another broker may want all of it."""
        self._refused.clear()

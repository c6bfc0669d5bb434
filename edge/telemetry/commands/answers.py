"""What is told on the topics of commands, held until the broker is seen to have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from edge.telemetry.sender import Sender

_MOST = 512
"""Answers that wait for the broker. Of more, the oldest are given up: the commands are there still,
and are answered again when they come again."""


class Answers:
    """One thread uses it. The device is subscribed to what it answers: what it hears of itself is
    the proof that the broker has it. Until then it is sent again with each connection; after that
    never, as the operator may have cleared the topic while nobody listened.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._waiting: dict[str, bytes] = {}

    def tell(self, topic: str, answer: dict[str, Any]) -> None:
        """Replace what stands there, also if it is thought to be the same."""
        self._put(topic, msgspec.json.encode(answer))

    def clear(self, topic: str) -> None:
        """Leave nothing there."""
        self._put(topic, b"")

    def _put(self, topic: str, payload: bytes) -> None:
        self.drop(topic)
        self._waiting[topic] = payload
        self._sender.retain(topic, payload)
        if len(self._waiting) > _MOST:
            self.drop(next(iter(self._waiting)))

    def is_echo(self, topic: str, payload: bytes) -> bool:
        """Whether that is what was told last; then the broker has it."""
        if self._waiting.get(topic) != payload:
            return False
        self.drop(topic)
        return True

    def drop(self, topic: str) -> None:
        """Tell it no more."""
        if self._waiting.pop(topic, None) is not None:
            self._sender.release(topic)

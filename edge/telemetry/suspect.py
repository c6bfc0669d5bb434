"""Finds the message after which a broker hangs up, each time that it gets it."""

from __future__ import annotations

from collections.abc import Sequence

from edge.telemetry.backlog import Message

TIMES = 5  # in a row: a broker that is restarted now and then is no reason to give one up
_LONGEST_WATCH = 100  # messages taken by a broker that hung up on something else

Key = tuple[str, int]


class Suspect:
    """A broker of MQTT 3.1.1 that finds a message too large, or no business of ours, hangs up.

    Without more, the message would be sent again for ever, and hold up all behind it. Once a
    connection is lost with messages on their way, all go one at a time until these are taken, so
    that it is certain which one it was.
    """

    def __init__(self) -> None:
        self._suspects: set[Key] = set()
        self._taken_count = 0
        self._last: Key | None = None
        self._count = 0

    def window(self, usual: int) -> int:
        return 1 if self._suspects else usual

    def cut(self, in_flight: Sequence[Message], *, has_taken: bool) -> Message | None:
        """The broker has hung up on these: the one to give up, if any.

        Args:
            has_taken: Whether it took others in that connection. One that takes none may hang up
                for a reason of its own, or its answers were lost with the connection.
        """
        was_alone = has_taken and bool(self._suspects) and len(in_flight) == 1
        self._suspects.update(map(_key, in_flight))
        self._taken_count = 0
        if not was_alone:
            return None
        (message,) = in_flight
        self._count = self._count + 1 if _key(message) == self._last else 1
        self._last = _key(message)
        if self._count < TIMES:
            return None
        self._suspects.discard(_key(message))
        return message

    def taken(self, message: Message) -> None:
        """The broker has this one."""
        self._suspects.discard(_key(message))
        self._taken_count += 1
        if self._taken_count > _LONGEST_WATCH:
            self.forget()

    def forget(self) -> None:
        """Another broker is at the other end, or it was not a message."""
        self._suspects.clear()
        self._last, self._count = None, 0


def _key(message: Message) -> Key:
    return message.topic, message.number

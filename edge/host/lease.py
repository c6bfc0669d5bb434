"""A session that gives way to another one between two requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.core.contracts import Session
    from edge.core.tensor import Array, Feeds


class Lease:
    """Counts who uses a session, so that it can be closed when nobody does any more."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._successor: Session | None = None
        self._running = 0
        self._lock = threading.Lock()

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """``Session.run``, of the session or of its successor."""
        with self._lock:
            successor = self._successor
            self._running += successor is None
        if successor is not None:  # it came between the caller's look at the model and this one
            return successor.run(feeds)
        try:
            return self._session.run(feeds)
        finally:
            with self._lock:
                self._running -= 1
                is_last = self._running == 0 and self._successor is not None
            if is_last:
                self._session.close()

    def hand_over(self, successor: Session) -> None:
        """Send what comes from now on to ``successor``, and close the session when it is idle."""
        with self._lock:
            self._successor = successor
            is_idle = self._running == 0
        if is_idle:
            self._session.close()

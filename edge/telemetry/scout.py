"""Looks whether a better broker is back, while another one serves."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from edge.telemetry.address import BrokerAddress
from edge.telemetry.link import Link


class Scout:
    """On a thread of its own, as a broker that is not there may take its time to say nothing.

    A broker is back when it accepts us: login, certificate and all. Each look is up to ``every_s``
    after the one before, at random, so that a fleet does not come back all at once.
    """

    def __init__(
        self, make_link: Callable[[BrokerAddress], Link], every_s: float, tell: Callable[[], None]
    ) -> None:
        self._make_link = make_link
        self._every_s = every_s
        self._tell = tell
        self._look_at_s = 0.0
        self._thread: threading.Thread | None = None
        self._found: int | None = None

    def begin(self) -> None:
        """A connection begins."""
        self._found = None
        self._plan()

    def better(self, than: Sequence[BrokerAddress]) -> int | None:
        """The place of one that is back; looks when it is time. Called now and then."""
        if self._found is not None or not than or time.monotonic() < self._look_at_s:
            return self._found
        if self._thread is None or not self._thread.is_alive():
            self._plan()
            self._thread = threading.Thread(
                target=self._look, args=(tuple(than),), name="edge-scout", daemon=True
            )
            self._thread.start()
        return None

    def _plan(self) -> None:
        self._look_at_s = time.monotonic() + self._every_s * random.uniform(0.5, 1.0)

    def _look(self, addresses: Sequence[BrokerAddress]) -> None:
        for place, address in enumerate(addresses):
            link = self._make_link(address)
            link.open()
            while link.state == "connecting":
                link.step(1.0)
            is_back = link.state == "connected"
            link.disconnect()
            if is_back:
                self._found = place
                self._tell()
                return

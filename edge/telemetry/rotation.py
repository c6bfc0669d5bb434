"""Which of several brokers is tried next, and when."""

from __future__ import annotations

from collections.abc import Sequence

from edge.telemetry.address import BrokerAddress
from edge.telemetry.backoff import Backoff


class Rotation:
    """Brokers in order: after one that fails the next at once, after the last a wait.

    After a connection that held, a new round begins, as the first is likely to be well.
    """

    def __init__(self, brokers: Sequence[BrokerAddress], backoff: Backoff) -> None:
        self.brokers = tuple(brokers)
        self.place = 0
        self._backoff = backoff
        self._reasons: dict[int, str] = {}

    @property
    def current(self) -> BrokerAddress:
        return self.brokers[self.place]

    def ended(self, reason: str, held_s: float) -> float:
        """Take the next broker; gives the seconds to wait before it is tried.

        Args:
            held_s: How long there was a connection, 0 if there was none.
        """
        self._reasons[self.place] = reason
        self._backoff.lasted(held_s)
        if self.place + 1 < len(self.brokers) and held_s < self._backoff.longest_s:
            self.place += 1
            return 0.0
        self.place = 0
        return self._backoff.next_s()

    def move_to(self, place: int) -> None:
        """Take a broker that is known to be well."""
        self.place = place
        self._backoff.failures = 0

    def why(self, places: int | None = None) -> str:
        """Why the first ``places`` brokers (all if None) failed when they were tried last."""
        told = [self._reasons.get(place, "") for place in range(len(self.brokers))][:places]
        if len(self.brokers) == 1:
            return "".join(told)
        pairs = zip(self.brokers, told, strict=False)
        return "; ".join(f"{broker}: {reason}" for broker, reason in pairs if reason)

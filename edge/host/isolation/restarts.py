"""When a worker that ended may start again, and when that is enough."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.host.isolation.limits import Limits


class Restarts:
    """Counts deaths; times are those of one clock, in seconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._deaths: deque[float] = deque(maxlen=limits.deaths)
        self._streak = 0

    def after_death(self, now_s: float, lived_s: float) -> float | None:
        """How long to wait before the next start; None if there should be none."""
        limits = self._limits
        if lived_s >= limits.healthy_s:
            self._streak = 0
        self._deaths.append(now_s)
        if len(self._deaths) == limits.deaths and now_s - self._deaths[0] <= limits.window_s:
            return None
        delay_s: float = limits.delay_s * 2**self._streak
        if delay_s < limits.longest_delay_s:
            self._streak += 1
        return min(delay_s, limits.longest_delay_s)

"""When a worker that ended may start again, and when that is enough."""

from __future__ import annotations

from collections import deque

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """How much patience a host has with a worker.

    ``timeout_s`` is for one run (0: any time), ``start_timeout_s`` for opening the variant, and for
    runs that wait for that; ``close_timeout_s`` for the last runs to end. ``lanes`` run at the same
    time. A worker that ended starts again after ``delay_s``, each time after twice as long up to
    ``longest_delay_s``, until it lived for ``healthy_s``; not if it was the last of ``deaths``
    within ``window_s``.
    """

    timeout_s: float = 0.0
    start_timeout_s: float = 60.0
    close_timeout_s: float = 10.0
    lanes: int = 4
    delay_s: float = 0.1
    longest_delay_s: float = 30.0
    healthy_s: float = 60.0
    deaths: int = 5
    window_s: float = 60.0


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

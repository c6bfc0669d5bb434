"""How long to wait before the next try, so that a fleet does not come back all at once."""

from __future__ import annotations

import random

import msgspec


class Backoff(msgspec.Struct):
    """Doubles from ``first_s`` to ``longest_s``; each wait is 50 to 100 % of that, at random."""

    first_s: float = 1.0
    longest_s: float = 60.0
    failures: int = 0

    def next_s(self) -> float:
        """Seconds to wait after one more failure."""
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return ceiling * random.uniform(0.5, 1.0)

    def lasted(self, connected_s: float) -> None:
        """Start over after a connection that held; one that broke at once counts as a failure."""
        if connected_s >= self.longest_s:
            self.failures = 0

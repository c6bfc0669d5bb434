"""Latency of several sessions side by side, on the machine that this runs on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edge.core.contracts import Session
from edge.core.manifest import Latency

if TYPE_CHECKING:
    from edge.core.tensor import Feeds

ROUNDS = 7
BLOCK_S = 0.15
BLOCK_RUNS = 200
"""A block ends at the first of the two: enough of either for a percentile."""

WARM_UP_RUNS = 3
"""Before every block: the engine that ran last may still spin its threads, and caches are cold."""


def measure_latency(sessions: Mapping[str, Session], feeds: Feeds) -> dict[str, Latency]:
    """Time single runs, one session after the other in alternating blocks.

    Alternation spreads what else the machine does over all of them, so that ratios hold.
    """
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            samples[name] += _block(session, feeds)
    return {name: _percentiles(times) for name, times in samples.items()}


def _block(session: Session, feeds: Feeds) -> list[float]:
    for _ in range(WARM_UP_RUNS):
        session.run(feeds)
    times: list[float] = []
    end = time.perf_counter() + BLOCK_S
    while not times or (len(times) < BLOCK_RUNS and time.perf_counter() < end):
        start = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - start)
    return times


def _percentiles(times: list[float]) -> Latency:
    import numpy as np

    p50, p99 = np.percentile(times, (50, 99)) * 1e3
    return Latency(p50=round(float(p50), 4), p99=round(float(p99), 4))

"""Latency and energy of single inferences, of several sessions side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from edge.core.contracts import Session
from edge.core.manifest import Latency
from edge.sensors.x86 import EnergyCounters, energy_counters

if TYPE_CHECKING:
    from edge.core.tensor import Feeds

ROUNDS = 7
BLOCK_S = 0.15
BLOCK_RUNS = 200
"""A block ends at the first of the two: enough of either for a percentile."""

WARM_UP_RUNS = 3
"""Before every block: the engine that ran last may still spin its threads, and caches are cold."""


class Timings(msgspec.Struct, frozen=True):
    """By name of session; ``joules`` of the whole processor, or of the platform where that is
    what its counters tell, per inference."""

    latency: dict[str, Latency]
    joules: dict[str, float] = {}


class _Samples:
    """What the blocks of one session add up to."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.joules: float | None = 0.0


def measure_latency(sessions: Mapping[str, Session], feeds: Feeds) -> Timings:
    """Time single runs, one session after the other in alternating blocks.

    Alternation spreads what else the machine does over all of them, so that ratios hold.
    """
    energy = energy_counters()
    samples = {name: _Samples() for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            _block(session, feeds, samples[name], energy)
    return Timings(
        {name: _percentiles(each.times) for name, each in samples.items()},
        {
            name: each.joules / len(each.times)
            for name, each in samples.items()
            if each.joules is not None
        },
    )


def _block(session: Session, feeds: Feeds, samples: _Samples, energy: EnergyCounters) -> None:
    for _ in range(WARM_UP_RUNS):
        session.run(feeds)
    before = energy.read(time.monotonic()).total_joules
    count = len(samples.times)
    end = time.perf_counter() + BLOCK_S
    while len(samples.times) == count or (
        len(samples.times) < count + BLOCK_RUNS and time.perf_counter() < end
    ):
        start = time.perf_counter()
        session.run(feeds)
        samples.times.append(time.perf_counter() - start)
    after = energy.read(time.monotonic()).total_joules
    if samples.joules is None or before is None or after is None:
        samples.joules = None
    else:
        samples.joules += after - before


def _percentiles(times: list[float]) -> Latency:
    import numpy as np

    p50, p99 = np.percentile(times, (50, 99)) * 1e3
    return Latency(p50=round(float(p50), 4), p99=round(float(p99), 4))

"""What an inference takes: models side by side, in alternating blocks, on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds, TensorSpec
    from edge.host.model import Model

ROUNDS = 5
WARM_UP_RUNS = 5
"""At least; before every block, as the engine that ran last may still spin its threads."""

WARM_UP_SHARE = 0.1
"""Of a block's time, on top of it: caches fill and clocks rise."""

_PERCENTILES = (50, 90, 99)


class Figures(msgspec.Struct, frozen=True):
    """Latency of single inferences in milliseconds, and inferences per second of all callers."""

    count: int
    p50: float
    p90: float
    p99: float
    mean: float
    per_second: float


def measure(
    models: Mapping[str, Model],
    feeds: Mapping[str, Feeds],
    *,
    seconds: float,
    callers: int = 1,
) -> dict[str, Figures]:
    """Measure each model for ``seconds``; they take turns, so that noise meets all of them.

    Args:
        feeds: What to infer, by the same names as ``models``.
        callers: Threads that infer at the same time.
    """
    times: dict[str, list[int]] = {name: [] for name in models}
    spent: dict[str, float] = dict.fromkeys(models, 0.0)
    with ThreadPoolExecutor(callers) as pool:
        for _ in range(ROUNDS):
            for name, model in models.items():
                block = _Block(model, feeds[name], seconds / ROUNDS, callers)
                done = [pool.submit(block.run) for _ in range(callers)]
                for future in done:
                    times[name] += future.result()
                spent[name] += block.spent_s
    return {name: _figures(times[name], spent[name]) for name in models}


def synthetic_feeds(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Noise in [0, 1), or zeros for integers and empty text; dynamic dimensions are 1."""
    noise = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for spec in specs:
        shape = [dim if isinstance(dim, int) else 1 for dim in spec.shape]
        if spec.dtype == "string":
            feeds[spec.name] = np.full(shape, "", dtype=object)
        elif spec.dtype.startswith("float"):
            feeds[spec.name] = noise.random(shape).astype(spec.dtype)
        else:
            feeds[spec.name] = np.zeros(shape, spec.dtype)
    return feeds


class _Block:
    """One turn of a model; its callers start together after each has warmed up."""

    def __init__(self, model: Model, feeds: Feeds, seconds: float, callers: int) -> None:
        self.spent_s = 0.0
        self._infer = model.infer
        self._feeds = feeds
        self._seconds = seconds
        self._start = threading.Barrier(callers)

    def run(self) -> list[int]:
        """Infer until time is up, and return what each inference took, in nanoseconds."""
        infer, feeds, now = self._infer, self._feeds, time.perf_counter_ns
        try:
            warm = now() + int(self._seconds * WARM_UP_SHARE * 1e9)
            runs = 0
            while runs < WARM_UP_RUNS or now() < warm:
                infer(feeds)
                runs += 1
        except BaseException:
            self._start.abort()
            raise
        self._start.wait()
        times: list[int] = []
        start = last = now()
        end = start + int(self._seconds * 1e9)
        while last < end:
            infer(feeds)
            done = now()
            times.append(done - last)
            last = done
        self.spent_s = max(self.spent_s, (last - start) / 1e9)
        return times


def _figures(times_ns: list[int], spent_s: float) -> Figures:
    p50, p90, p99 = np.percentile(times_ns, _PERCENTILES) / 1e6
    return Figures(
        count=len(times_ns),
        p50=round(float(p50), 4),
        p90=round(float(p90), 4),
        p99=round(float(p99), 4),
        mean=round(float(np.mean(times_ns)) / 1e6, 4),
        per_second=round(len(times_ns) / spent_s, 1),
    )

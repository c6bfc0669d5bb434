"""Decides when a model is slower than it was for long enough, and says what may be why."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from edge.core.machine import machine
from edge.host.health.status import Latency, LatencyState

if TYPE_CHECKING:
    from edge.core.manifest import Latency as Measured
    from edge.core.manifest import Variant
    from edge.host.governor import Strain
    from edge.host.statistics import Histogram
    from edge.host.status import ModelStatus
    from edge.settings import Health

log = logging.getLogger(__name__)

FEWEST = 50
"""Inferences that make a window: their median is not moved by a few slow ones."""
FEWEST_FOR_TAIL = 300
TAIL = 2.0
"""A 99th percentile counts as slow at ``slow_factor`` times this: it is noisier by nature."""
WINDOW_S = 10.0
LEAST_MS = 0.5
"""What a pause between requests adds by itself, as caches go cold: nobody calls that slow."""
ALIKE = 0.2
"""Two medians, one after the other, that differ by less make a beginning."""
BUSY = 0.3
"""Share of the time from which on other models are worth a hint."""


class _Reference(msgspec.Struct, frozen=True):
    p50_ms: float
    p99_ms: float
    kind: Literal["bundle", "here"]
    reason: str

    def holds(self, status: ModelStatus) -> bool:
        """The bundle knows of single inferences only; batches may come later."""
        return self.kind == "here" or _is_single(status)


class LatencyWatch:
    """Looks at one model's own counters now and then: requests pay nothing for it."""

    def __init__(self, settings: Health) -> None:
        self._settings = settings
        self._variant = ""
        self._reference: _Reference | None = None
        self._begun: Histogram | None = None
        self._begun_s = 0.0
        self._before: Sequence[ModelStatus] = ()
        self._earlier: Histogram | None = None
        self._is_warm = False
        self._odd_since_s = math.inf
        self.status = Latency("gathering", since_ms=_now_ms())

    def look(
        self,
        now_s: float,
        status: ModelStatus,
        variant: Variant | None,
        statuses: Sequence[ModelStatus],
        strain: Strain | None,
    ) -> None:
        """Close the window if it has lasted long enough, and judge it.

        Args:
            now_s: The monotonic clock.
            variant: The one that runs, as the bundle describes it.
            statuses: Of all models, ``status`` among them.
        """
        if status.statistics is None:
            return
        histogram = status.statistics.stages["infer"]
        begun = self._begun
        is_other = status.variant != self._variant
        if begun is None or is_other or histogram.count < begun.count:
            self._begin_anew(status)
        elif now_s - self._begun_s < WINDOW_S or histogram.count - begun.count < FEWEST:
            return
        else:
            window = histogram.since(begun)
            if self._reference is not None and not self._reference.holds(status):
                self._begin_anew(status)
            if self._reference is None and variant is not None:
                self._reference = _from_bundle(variant, status) or self._from_here(window)
            hints = tuple(_hints(status, statuses, self._before, strain, now_s - self._begun_s))
            self._judge(window, now_s, status, hints)
        self._begun, self._begun_s, self._before = histogram, now_s, statuses

    def _begin_anew(self, status: ModelStatus) -> None:
        self._variant = status.variant
        self._reference = self._earlier = None
        self._is_warm = False
        self._odd_since_s = math.inf
        self.status = Latency("gathering", since_ms=_now_ms())

    def _from_here(self, window: Histogram) -> _Reference | None:
        """Of two windows that are alike, after the first one, in which caches are cold."""
        earlier, self._earlier = self._earlier, window
        if not self._is_warm:
            self._is_warm, self._earlier = True, None
            return None
        p50_ms = window.percentile_ms(50)
        if earlier is None or abs(p50_ms / earlier.percentile_ms(50) - 1) > ALIKE:
            return None
        p99_ms = max(window.percentile_ms(99), earlier.percentile_ms(99))
        return _Reference(p50_ms, p99_ms, "here", "what it took here at first")

    def _judge(
        self, window: Histogram, now_s: float, status: ModelStatus, hints: tuple[str, ...]
    ) -> None:
        reference = self._reference
        p50_ms, p99_ms = window.percentile_ms(50), window.percentile_ms(99)
        measured = msgspec.structs.replace(
            self.status, count=window.count, p50_ms=p50_ms, p99_ms=p99_ms
        )
        if reference is None:
            self.status = measured
            return
        excess = _excess(p50_ms, reference.p50_ms)
        if window.count >= FEWEST_FOR_TAIL and reference.p99_ms:
            excess = max(excess, _excess(p99_ms, TAIL * reference.p99_ms))
        was, state = self.status.state, self._decided(excess, now_s)
        self.status = msgspec.structs.replace(
            measured,
            state=state,
            reference=reference.kind,
            reason=reference.reason,
            reference_p50_ms=reference.p50_ms,
            reference_p99_ms=reference.p99_ms,
            hints=hints if excess > 1 else (),
            since_ms=self.status.since_ms if state == was else _now_ms(),
        )
        if state == "slow" != was:
            log.warning("%s %s is slow: %s", status.name, status.version, self.status.why)
        elif was == "slow" != state:
            log.info("%s %s is as fast as before", status.name, status.version)

    def _decided(self, excess: float, now_s: float) -> LatencyState:
        """The state, which changes after windows that say so for ``slow_s``."""
        factor, state = self._settings.slow_factor, self.status.state
        is_slow = state == "slow"
        is_odd = excess < math.sqrt(factor) if is_slow else excess >= factor
        if not is_odd:
            self._odd_since_s = math.inf
            return "slow" if is_slow else "normal"
        # From the beginning of the first window that said so.
        self._odd_since_s = min(self._odd_since_s, self._begun_s)
        if now_s - self._odd_since_s < max(self._settings.slow_s, 2 * WINDOW_S):
            return state
        self._odd_since_s = math.inf
        return "normal" if is_slow else "slow"


def _excess(now_ms: float, was_ms: float) -> float:
    return now_ms / was_ms if now_ms - was_ms >= LEAST_MS else 1.0


def _from_bundle(variant: Variant, status: ModelStatus) -> _Reference | None:
    """What was measured at conversion, one inference after the other, on a machine like this."""
    measured: Measured | None = variant.latency_ms
    if measured is None or not measured.p50 or not _is_single(status):
        return None
    if not variant.measured_on.startswith(f"{machine()}, {status.engine} "):
        return None
    return _Reference(measured.p50, measured.p99, "bundle", variant.measured_on)


def _is_single(status: ModelStatus) -> bool:
    """Whether each inference so far was one request, in this process."""
    statistics = status.statistics
    return status.worker is None and statistics is not None and set(statistics.batches) <= {1}


def _hints(
    status: ModelStatus,
    statuses: Sequence[ModelStatus],
    before: Sequence[ModelStatus],
    strain: Strain | None,
    seconds: float,
) -> Iterator[str]:
    """What happened meanwhile that slows models down."""
    if strain is not None and strain.cause != "none":
        yield f"the device is held back ({strain.cause}: {strain.why})"
    for each in statuses:
        if each.building is not None:
            yield f"an engine of {each.name} is being built"
    earlier = {(each.name, each.version): each for each in before}
    own = earlier.get((status.name, status.version))
    if own is not None and status.loads > own.loads:
        yield f"it was loaded again {status.loads - own.loads} times, for want of memory"
    others_ns = sum(
        _busy_ns(each) - _busy_ns(earlier[each.name, each.version])
        for each in statuses
        if each is not status and (each.name, each.version) in earlier
    )
    if others_ns > BUSY * seconds * 1e9:
        yield f"other models ran for {others_ns / 1e7 / seconds:.0f} % of the time"


def _busy_ns(status: ModelStatus) -> int:
    known = status.statistics.batches.values() if status.statistics else ()
    return sum(batch.total_ns for batch in known)


def _now_ms() -> int:
    return int(time.time() * 1000)

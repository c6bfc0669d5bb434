"""Puts energy and work together while models run, once for each reading of the sensors."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from edge.core.profile import load_profile
from edge.host.metering.energy import EnergyMeter
from edge.host.metering.idle import Idle
from edge.host.metering.ledger import Ledger, device_seconds
from edge.host.metering.money import tariff
from edge.host.metering.report import Basis, CostReport, IdleSource, make_report
from edge.host.metering.work import Key, Work, WorkMeter, added

if TYPE_CHECKING:
    from edge.host.status import ModelStatus
    from edge.sensors import Reading
    from edge.settings import Cost

_NO_WORK = Work()
_LONGEST_S = 60.0
_GAP = 2.5
"""Readings that are so many intervals apart have a gap between them."""

_NO_SENSOR = (
    "no sensor here tells the power (energy counters of x86 are for root); for an estimate set "
    "idle_watts and busy_watts in [cost]"
)
_ESTIMATED = "no sensor here tells the power: by idle_watts, busy_watts and the time models ran"


class _Interval(msgspec.Struct):
    """A stretch of time that is shared out as one."""

    seconds: float
    joules: float | None
    works: dict[Key, Work]
    is_quiet: bool
    samples: int = 1


class CostMeter:
    """Follows what models and the device use; one thread looks, any may read ``report``.

    An interval ends with a reading, unless a model is in flight that ended nothing in it: as the
    time of an inference is known only when it ends, the interval goes on until then, for up to a
    minute. The clock is the monotonic one, so that of the wall may jump.

    Args:
        interval_s: How often ``look`` is meant to be called.
    """

    def __init__(self, settings: Cost, interval_s: float) -> None:
        profile = load_profile(settings.profile).power if settings.profile else None
        self._settings_idle_watts = settings.idle_watts
        self._profile_idle_watts = profile.idle_watts if profile else 0.0
        self._busy_watts = settings.busy_watts or (profile.peak_watts if profile else 0.0)
        self._tariff = tariff(settings)
        self._energy = EnergyMeter(_GAP * interval_s)
        self._work = WorkMeter()
        self._looked_s: float | None = None
        self._open: _Interval | None = None
        self._begin()

    def look(self, now_s: float, reading: Reading, statuses: Sequence[ModelStatus]) -> None:
        """Account for the time since the last call.

        Args:
            now_s: The monotonic clock.
        """
        joules = self._energy.advance(now_s, reading)
        works = self._work.advance(statuses)
        elapsed_s = 0.0 if self._looked_s is None else max(0.0, now_s - self._looked_s)
        is_first, self._looked_s = self._looked_s is None, now_s
        if is_first:
            return
        self._take(_Interval(elapsed_s, joules, works, self._work.is_quiet))
        self._ledger.keep([(status.name, status.version) for status in statuses])
        self.report = self._make_report()

    def _begin(self) -> None:
        self._ledger = Ledger()
        self._energy.variance = 0.0
        self._idle = Idle()
        self._rail = ""
        self._samples = 0
        self._is_estimated = False
        self._since_ms = int(time.time() * 1000)
        self.report = self._make_report()

    def _take(self, now: _Interval) -> None:
        before = self._open
        if before is not None and (before.joules is None) != (now.joules is None):
            self._close(before)
            before = None
        self._open = now if before is None else _joined(before, now)
        is_long = self._open.seconds >= _LONGEST_S
        if is_long or all(
            self._open.works.get(key, _NO_WORK).engine_ns for key in self._work.running
        ):
            self._close(self._open)
            self._open = None

    def _close(self, interval: _Interval) -> None:
        joules = interval.joules
        if joules is not None:
            if self._is_estimated or self._rail not in ("", self._energy.rail):
                self._begin()  # what was guessed, or is of another rail, is not added to it
            self._rail = self._energy.rail
            self._idle.learn(interval.seconds, joules, is_quiet=interval.is_quiet)
            self._samples += interval.samples
        elif self._energy.source == "none":
            joules = self._estimate(interval)
        self._ledger.enter(interval.seconds, joules, interval.works, self._idle_power()[0])

    def _estimate(self, interval: _Interval) -> float | None:
        """By the time that models ran; None without figures to go by."""
        idle_watts = self._settings_idle_watts or self._profile_idle_watts
        if not idle_watts or not self._busy_watts:
            return None
        self._is_estimated = True
        busy_s = sum(device_seconds(interval.seconds, interval.works).values())
        return idle_watts * interval.seconds + (self._busy_watts - idle_watts) * busy_s

    def _idle_power(self) -> tuple[float | None, IdleSource]:
        if self._settings_idle_watts:
            return self._settings_idle_watts, "settings"
        if self._idle.watts is not None:
            return self._idle.watts, "measured"
        if self._profile_idle_watts:
            return self._profile_idle_watts, "profile"
        return None, "unknown"

    def _make_report(self) -> CostReport:
        ledger, energy = self._ledger, self._energy
        idle_watts, idle_source = self._idle_power()
        basis = Basis(
            energy.source,
            energy.rail,
            samples_per_s=self._samples / ledger.measured_s if ledger.measured_s else 0.0,
            error_joules=math.sqrt(energy.variance) if energy.source == "integrated" else None,
            idle_watts=idle_watts,
            idle_source=idle_source,
        )
        if self._is_estimated:
            basis = msgspec.structs.replace(basis, source="estimated", why=_ESTIMATED)
        elif energy.source == "none":
            basis = msgspec.structs.replace(basis, why=_NO_SENSOR)
        return make_report(self._since_ms, ledger, basis, self._tariff)


def _joined(one: _Interval, other: _Interval) -> _Interval:
    is_known = one.joules is not None and other.joules is not None
    return _Interval(
        one.seconds + other.seconds,
        one.joules + other.joules if is_known else None,  # type: ignore[operator]
        added(one.works, other.works),
        one.is_quiet and other.is_quiet,
        one.samples + other.samples,
    )

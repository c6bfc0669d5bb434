"""Looks after heat and power while models run: measures, decides, limits, and says so."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import SettingsError
from edge.host.restraint import Level, Limits, Load, Restraint
from edge.sensors import Cause, Reading, device_sensors

if TYPE_CHECKING:
    from edge.host.fairness import FairShare
    from edge.host.metering import CostMeter
    from edge.host.status import ModelStatus
    from edge.sensors import DeviceSensors
    from edge.settings import Power

log = logging.getLogger(__name__)

_CLOSE_S = 2.0
_PACE = (0.5, 1.5)


class Strain(msgspec.Struct, frozen=True):
    """How the device bears its work, and what is held back for it.

    Attributes:
        level: ``free``, or the last limit that had to come: ``concurrency``, then ``rate``.
        cause: Why: of what presses now, or has until the limits are lifted.
        since_ms: Wall clock of the last change of level or cause.
        missing: What a limit was set for and no sensor tells.
        reading: What the sensors said last.
    """

    level: Level = "free"
    cause: Cause = "none"
    why: str = ""
    since_ms: int = 0
    limits: Limits = Limits()
    missing: tuple[str, ...] = ()
    reading: Reading = Reading()

    def summary(self) -> dict[str, Any]:
        """All but the reading, under the names that telemetry uses."""
        return {
            "power_level": self.level,
            "power_cause": self.cause,
            "power_why": self.why,
            "power_since_ms": self.since_ms,
            "power_limit_concurrency": self.limits.concurrency,
            "power_limit_batches_per_s": self.limits.batches_per_s,
            **({"power_missing": list(self.missing)} if self.missing else {}),
        }


class Governor:
    """One thread that reads sensors, and limits ``fair`` by what they say.

    Args:
        settings: ``policy`` must not be ``off``.
        status: What models did so far.
        meter: Is shown each reading, so that sensors are read once for all.
    Raises:
        SettingsError: There is no ``sys`` below their ``root``.
    """

    def __init__(
        self,
        settings: Power,
        fair: FairShare,
        status: Callable[[], Sequence[ModelStatus]],
        sensors: DeviceSensors | None = None,
        meter: CostMeter | None = None,
    ) -> None:
        self.strain = Strain(since_ms=int(time.time() * 1000))
        self._settings = settings
        self._fair = fair
        self._status = status
        self._meter = meter
        self._sensors = sensors or _sensors_at(Path(settings.root))
        self._restraint = Restraint(settings)
        self._looked: tuple[float, int, int] | None = None
        self._is_failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-power", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def settings(self) -> Power:
        return self._settings

    def configure(self, settings: Power) -> None:
        """Look after other limits from now on; another policy holds nothing back at first."""
        if settings.policy == self._settings.policy:
            self._restraint.configure(settings)
        else:
            self._restraint = Restraint(settings)
        self._settings = settings

    def close(self) -> None:
        """Lift all limits, so that what waits can end; a sensor that hangs is not waited for."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        self._fair.limit()

    def look(self, now_s: float) -> None:
        """Read, decide and limit, once.

        Args:
            now_s: The monotonic clock.
        """
        reading = self._sensors.read(now_s)
        is_first = self._looked is None
        statuses = self._status()
        limits = self._restraint.decide(now_s, reading, self._load(now_s, statuses))
        before, cause, why = self.strain, self._restraint.cause, self._restraint.why
        missing = before.missing if is_first else self._missing(reading)
        has_changed = (limits.level, cause) != (before.level, before.cause)
        since_ms = int(time.time() * 1000) if has_changed else before.since_ms
        self.strain = Strain(limits.level, cause, why, since_ms, limits, missing, reading)
        if not self._closing.is_set():
            held = f"the device is held back ({cause}: {why})" if limits.level != "free" else ""
            self._fair.limit(limits.concurrency, limits.batches_per_s, held)
        self._tell(before, self.strain)
        if self._meter is not None:
            self._meter.look(now_s, reading, statuses)

    def _run(self) -> None:
        while True:
            try:
                self.look(time.monotonic())
                self._is_failing = False
            except Exception:
                if not self._is_failing:
                    log.exception("heat and power could not be looked after")
                self._is_failing = True
                # What was read last is not told as if it were read now.
                self.strain = msgspec.structs.replace(self.strain, reading=Reading())
            # Never in step with what runs: read once a second sharp, a load that comes once a
            # second is seen always or never, and its energy off by two thirds (benchmarks/cost.py).
            if self._closing.wait(self._settings.interval_s * random.uniform(*_PACE)):
                return

    def _load(self, now_s: float, statuses: Sequence[ModelStatus]) -> Load:
        batches, busy_ns = _work_of(statuses)
        before, self._looked = self._looked, (now_s, batches, busy_ns)
        if before is None or now_s <= before[0]:
            return Load(0.0, 0.0)
        elapsed_s = now_s - before[0]
        # Both fall when a model goes.
        busy_s = max(0, busy_ns - before[2]) / 1e9
        return Load(busy_s / elapsed_s, max(0, batches - before[1]) / elapsed_s)

    def _missing(self, reading: Reading) -> tuple[str, ...]:
        wanted = {
            "power": bool(self._settings.budget_watts) and reading.total_watts is None,
            "temperature": bool(self._settings.max_celsius) and reading.hottest is None,
        }
        return tuple(name for name, is_missing in wanted.items() if is_missing)

    def _tell(self, before: Strain, now: Strain) -> None:
        """One line per change."""
        for what in set(now.missing) - set(before.missing):
            log.warning(
                "no sensor here tells the %s: its limit in [power] can not be kept "
                "(energy counters of x86 are for root)",
                what,
            )
        if (now.level, now.cause) == (before.level, before.cause):
            return
        if now.level == "free" and now.cause == "none":
            log.info("the device is no longer held back")
            return
        is_new = before.level == "free" and before.cause == "none"
        level = logging.WARNING if is_new else logging.INFO
        log.log(level, "%s: %s; %s", now.cause, now.why, _said(now.limits))


def _sensors_at(root: Path) -> DeviceSensors:
    if root != Path("/") and not (root / "sys").is_dir():  # not every system has one
        raise SettingsError(
            f"[power] root: there is no folder {root / 'sys'}",
            hint="name the folder under which the device's sys and proc are",
        )
    return device_sensors(root)


def _work_of(statuses: Iterable[ModelStatus]) -> tuple[int, int]:
    """How many batches have run so far, and how many nanoseconds they took together."""
    known = [status.statistics for status in statuses if status.statistics is not None]
    batches = [batch for statistics in known for batch in statistics.batches.values()]
    return sum(batch.count for batch in batches), sum(batch.total_ns for batch in batches)


def _said(limits: Limits) -> str:
    parts = []
    if limits.concurrency:
        parts.append(f"{limits.concurrency} batches run at once")
    if limits.batches_per_s:
        parts.append(f"{limits.batches_per_s:.1f} start per second")
    return f"at most {' and '.join(parts)}" if parts else "nothing is limited"

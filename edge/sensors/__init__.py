"""What the device itself measures: one module per family, each ending in ``SENSORS = …``."""

from __future__ import annotations

import importlib
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from edge.core import plugins
from edge.sensors._files import Tree
from edge.sensors._rounds import Rounds

log = logging.getLogger(__name__)

Metrics = dict[str, Any]
"""Name with its unit -> figure, or name -> figures by sensor. What is not there is left out."""

Cause = Literal["none", "unknown", "power", "thermal", "over-current"]
"""Why the device holds itself back, the worst last."""

CAUSES: tuple[Cause, ...] = ("none", "unknown", "power", "thermal", "over-current")

_PROBE_EVERY_S = 60.0
_ELSEWHERE = ("nvme", "drivetemp", "iwlwifi", "mt7", "ath", "bat", "spd5118", "jc42", "r8169")
"""Disks, radios, batteries and memory sticks: warm by other things than inference."""


class Clock(msgspec.Struct, frozen=True):
    """How fast something runs, may run now, and could run; None where the device does not say."""

    now_hz: int | None = None
    limit_hz: int | None = None
    maximum_hz: int | None = None

    @classmethod
    def of_megahertz(cls, now: int | None, limit: int | None, maximum: int | None) -> Clock:
        return cls(*(None if mhz is None else mhz * 1_000_000 for mhz in (now, limit, maximum)))


class Throttle(msgspec.Struct, frozen=True):
    """That the device holds itself back: why, and how it says so."""

    cause: Cause
    why: str


class Reading(msgspec.Struct, frozen=True):
    """What all sensors said at one time. What is not there is left out.

    Attributes:
        passive_celsius: Where the kernel or a driver begins to hold a zone back.
        power_watts: By rail; rails may be parts of others.
        total_watts: Of the most that is measured as a whole: the board, the module or the chip.
        total_rail: Which rail that is, or which rails it is the sum of.
        total_joules: What the counter of that whole has counted since it was found, where there
            is one; None in a reading after which it begins anew.
        is_board: The total is of all that the device has; totals of others are parts of it.
        throttles: All that hold back now.
        figures: All else that telemetry tells, name with its unit -> figure.
    """

    temperature_celsius: dict[str, float] = {}
    passive_celsius: dict[str, float] = {}
    power_watts: dict[str, float] = {}
    total_watts: float | None = None
    total_rail: str = ""
    total_joules: float | None = None
    is_board: bool = False
    clocks: dict[str, Clock] = {}
    throttles: tuple[Throttle, ...] = ()
    figures: Metrics = {}

    @property
    def hottest(self) -> tuple[str, float] | None:
        """Name and °C of the warmest of what inference heats."""
        found = [
            (celsius, name)
            for name, celsius in self.temperature_celsius.items()
            if not name.startswith(_ELSEWHERE)
        ]
        celsius, name = max(found, default=(0.0, ""))
        return (name, celsius) if name else None

    @property
    def throttle(self) -> Throttle:
        """The worst of ``throttles``; of cause ``none`` if there are none."""
        return max(
            self.throttles, key=lambda one: CAUSES.index(one.cause), default=Throttle("none", "")
        )

    def metrics(self) -> Metrics:
        """As telemetry tells it."""
        metrics: Metrics = dict(self.figures)
        if self.temperature_celsius:
            metrics["temperature_celsius"] = self.temperature_celsius
            metrics["temperature_max_celsius"] = max(self.temperature_celsius.values())
        if self.power_watts:
            metrics["power_watts"] = self.power_watts
        if self.total_watts is not None:
            metrics["power_total_watts"] = self.total_watts
        for field in ("now", "limit", "maximum"):
            clocks = {
                name: round(hertz / 1e6)
                for name, clock in self.clocks.items()
                if (hertz := getattr(clock, f"{field}_hz")) is not None
            }
            if clocks:
                metrics[f"clock_{field}_mhz"] = clocks
        if self.throttles:
            metrics["throttle"] = self.throttle.cause
            metrics["throttle_why"] = "; ".join(one.why for one in self.throttles)
        return metrics


class Sensors(Protocol):
    """A family of sensors, made with the tree under which it finds ``sys`` and ``proc``."""

    def probe(self) -> None:
        """Look for what there is; called before the first reading and now and then."""
        ...

    def read(self, now_s: float) -> Reading:
        """Read all of them; rates are since the last call, and absent in the first.

        Args:
            now_s: The monotonic clock.
        """
        ...


class DeviceSensors:
    """All families together, for one thread. One that fails or hangs is told once, and left out."""

    def __init__(self, families: dict[str, Sensors], rounds: Rounds[Reading] | None = None) -> None:
        self._families = families
        self._rounds = rounds or Rounds()
        self._failing: set[str] = set()
        self._last: dict[str, Reading] = {}
        self._probe_s = float("-inf")

    def read(self, now_s: float | None = None) -> Reading:
        """Read them all: about a millisecond, of which most is the kernel's."""
        now_s = time.monotonic() if now_s is None else now_s
        is_due = now_s >= self._probe_s
        if is_due:
            self._probe_s = now_s + _PROBE_EVERY_S
        parts = self._rounds.ask(
            {
                name: partial(self._read, name, family, now_s, is_due=is_due)
                for name, family in self._families.items()
            }
        )
        self._last |= parts
        return merged([parts.get(name) or _unread(self._last.get(name)) for name in self._families])

    def _read(self, name: str, family: Sensors, now_s: float, *, is_due: bool) -> Reading:
        try:
            if is_due:
                family.probe()
            reading = family.read(now_s)
        except Exception:
            if name not in self._failing:
                log.exception("the %s sensors fail and are left out", name)
            self._failing.add(name)
            return _unread(self._last.get(name))
        self._failing.discard(name)
        return reading


def device_sensors(root: Path = Path("/")) -> DeviceSensors:
    """The sensors of the machine whose file system is at ``root``."""
    tree = Tree(root)
    return DeviceSensors(
        {
            name: importlib.import_module(f"{__name__}.{name}").SENSORS(tree)
            for name in plugins.stems(__name__)
        }
    )


def _unread(last: Reading | None) -> Reading:
    """Of a family that can't be read: its total is not known, and not that of the others either."""
    return Reading(total_rail=last.total_rail, is_board=last.is_board) if last else Reading()


def merged(parts: list[Reading]) -> Reading:
    """All that they say. Sensors of one name are one; of figures without a name the most counts.

    The total is that of the board, if one says that it measures all. Else those that there are,
    as of the processor and of GPUs that have their own supply, are beside each other and add up:
    watts where all are known, joules where all count.
    """
    told = [part for part in parts if part.total_rail]
    wholes = [part for part in told if part.is_board][:1] or told
    return Reading(
        temperature_celsius={k: v for part in parts for k, v in part.temperature_celsius.items()},
        passive_celsius={k: v for part in parts for k, v in part.passive_celsius.items()},
        power_watts={k: v for part in parts for k, v in part.power_watts.items()},
        total_watts=total([whole.total_watts for whole in wholes], 3),
        total_rail="+".join(whole.total_rail for whole in wholes),
        total_joules=total([whole.total_joules for whole in wholes], 6),
        is_board=any(whole.is_board for whole in wholes),
        clocks={k: v for part in parts for k, v in part.clocks.items()},
        throttles=tuple(one for part in parts for one in part.throttles),
        figures=_figures(parts),
    )


def _figures(parts: list[Reading]) -> Metrics:
    found: Metrics = {}
    for name, value in (item for part in parts for item in part.figures.items()):
        if name not in found:
            found[name] = value
        elif isinstance(value, dict):
            found[name] = {**found[name], **value}
        else:
            found[name] = max(found[name], value)
    return found


def total(parts: list[float | None], digits: int) -> float | None:
    """Nothing, unless all is known."""
    known = [part for part in parts if part is not None]
    return round(sum(known), digits) if known and len(known) == len(parts) else None

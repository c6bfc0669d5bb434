"""Rails, load, over-current, power mode and memory clock of a Jetson.

Sources: NVIDIA Jetson Linux Developer Guide r36 and r38, "Platform Power and Performance" (rails
by label, ``soctherm_oc`` counters, GPU under devfreq); Documentation/hwmon/ina3221.rst and
ina238.rst of the Linux kernel (units, alarms); nvpmodel.conf and jetson_clocks of Jetson Linux r36
(power mode, memory controller). True by documentation; tried on no board of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from edge.sensors import Cause, Clock, Metrics, Reading, Sensors, Throttle
from edge.sensors._files import Tree

_CHANNELS = (1, 2, 3)  # 7 is the sum of shunt voltages, no rail
_TOTAL = "VDD_IN"
_INPUT = "VIN"
_OC_EVENTS: dict[str, tuple[Cause, str]] = {
    "oc1_event_cnt": ("power", "undervoltage"),
    "oc2_event_cnt": ("over-current", "average over-current"),
}
"""What acts on the clocks for long. Instantaneous over-current (oc3) does so for microseconds and
is counted several times a second on boards at a third of their power: it is told, no more."""

_ALARMS: tuple[tuple[str, Cause], ...] = (("_crit_alarm", "over-current"), ("_max_alarm", "power"))
_NONSENSE_WATTS = 1000
_PEAKS = "oc3_event_cnt"
_MODES, _MODES_BYTES = "etc/nvpmodel.conf", 256 * 1024
_ACTIVE = "var/lib/nvpmodel/status"
_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=(\S+)\s*>", re.MULTILINE)
_STATUS = re.compile(r"pmode:(\d{1,4})")  # and, of older releases, the fan's mode
_EMC = "sys/kernel/debug/bpmp/debug/clk/emc"
_EMC_LIMIT = "sys/kernel/nvpmodel_clk_cap/emc"
_GPUS = ("gpu", "ga10b", "gv11b", "gp10b")


class _Rail(NamedTuple):
    label: str
    millivolts: str
    milliamperes: str


class JetsonSensors:
    """INA3221 rails by label, Thor's input, over-current counters, GPU load, power mode, memory."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._rails: list[_Rail] = []
        self._inputs: list[str] = []
        self._alarms: list[tuple[str, str, Cause]] = []
        self._counters: list[tuple[str, str]] = []
        self._counts: dict[str, int] = {}
        self._peaks: list[str] = []
        self._loads: list[str] = []
        self._modes: dict[int, str] = {}
        self._memory_hz: int | None = None

    def probe(self) -> None:
        tree = self._tree
        chips = [chip for _, chip in tree.chips("ina3221")]
        self._rails = [
            _Rail(label, f"{chip}/in{channel}_input", f"{chip}/curr{channel}_input")
            for chip in chips
            for channel in _CHANNELS
            if (label := tree.text(f"{chip}/in{channel}_label") or "") not in ("", "NC")
        ]
        self._alarms = [
            (rail.label, path, cause)
            for rail in self._rails
            for suffix, cause in _ALARMS
            if tree.integer(path := rail.milliamperes.replace("_input", suffix)) is not None
        ]
        self._inputs = [f"{chip}/power1_input" for _, chip in tree.chips("ina238")]
        events = [chip for _, chip in tree.chips("soctherm_oc")]
        self._counters = [(name, f"{chip}/{name}") for chip in events for name in _OC_EVENTS]
        self._peaks = [f"{chip}/{_PEAKS}" for chip in events]
        self._loads = [
            f"{device}/device/load"
            for device in tree.entries(tree.at("sys/class/devfreq"))
            if any(name in device.rpartition("/")[2] for name in _GPUS)
        ]
        configuration = tree.text(tree.at(_MODES), _MODES_BYTES) or ""
        self._modes = {int(number): name for number, name in _MODE.findall(configuration)}
        self._memory_hz = tree.integer(tree.at(f"{_EMC}/max_rate"))

    def read(self, now_s: float) -> Reading:
        watts = self._watts()
        whole = _whole([*(rail.label for rail in self._rails), *(_INPUT for _ in self._inputs)])
        is_known = bool(whole) and watts.keys() >= set(whole)  # not of the other rails meanwhile
        figures: Metrics = {}
        if mode := self._mode():
            figures["power_mode"] = mode
        loads = [load for path in self._loads if (load := self._tree.integer(path)) is not None]
        if loads:
            figures["gpu_percent"] = min(100.0, max(0, *loads) / 10)
        peaks = [count for path in self._peaks if (count := self._tree.integer(path)) is not None]
        if peaks:
            figures["over_current_peak_count"] = sum(peaks)
        return Reading(
            power_watts=watts,
            total_watts=round(sum(watts[rail] for rail in whole), 3) if is_known else None,
            total_rail="+".join(whole),
            is_board=bool(whole),
            clocks=self._memory_clock(),
            throttles=(*self._risen(), *self._raised()),
            figures=figures,
        )

    def _mode(self) -> str | None:
        """Its name, or its number where the board does not list it. ``nvpmodel -q`` forks twice."""
        status = _STATUS.match(self._tree.text(self._tree.at(_ACTIVE)) or "")
        return self._modes.get(int(status[1]), str(int(status[1]))) if status else None

    def _memory_clock(self) -> dict[str, Clock]:
        """Only root may ask for it; what the power mode allows is for all, and 0 for no limit."""
        now_hz = self._tree.integer(self._tree.at(f"{_EMC}/rate"))
        limit_hz = self._tree.integer(self._tree.at(_EMC_LIMIT)) or None
        clock = Clock(now_hz, limit_hz, self._memory_hz)
        return {} if clock == Clock() else {"emc": clock}

    def _watts(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for rail in self._rails:
            millivolts = self._tree.figure(rail.millivolts)
            milliamperes = self._tree.figure(rail.milliamperes)
            if millivolts is not None and milliamperes is not None:
                found[rail.label] = round(millivolts * milliamperes / 1e6, 3)
        for path in self._inputs:
            microwatts = self._tree.figure(path)
            if microwatts is not None:
                found[_INPUT] = round(microwatts / 1e6, 3)
        return {rail: watts for rail, watts in found.items() if abs(watts) < _NONSENSE_WATTS}

    def _risen(self) -> list[Throttle]:
        """Counters that rose since the last reading."""
        found = []
        for name, path in self._counters:
            count = self._tree.figure(path)
            before = self._counts.get(path)
            if count is not None:
                self._counts[path] = count
                if before is not None and count > before:
                    cause, what = _OC_EVENTS[name]
                    found.append(Throttle(cause, f"{what}, {count - before} times"))
        return found

    def _raised(self) -> list[Throttle]:
        return [
            Throttle(cause, f"{label} draws more than its limit")
            for label, path, cause in self._alarms
            if self._tree.integer(path)
        ]


def _whole(rails: Iterable[str]) -> list[str]:
    """The module's input where that is a rail, as on Orin Nano and NX; else all its rails."""
    found = sorted(rails)
    return next(([whole] for whole in (_TOTAL, _INPUT) if whole in found), found)


SENSORS: type[Sensors] = JetsonSensors

"""What NVIDIA's driver tells of its GPUs: discrete ones, and the one within a Jetson Thor.

True by documentation (NVML API Reference), tried on a library that answers as it says. On an
Orin NVML begins and then supports nothing (r39.2): then there are no sensors here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TypeVar

from edge.sensors import Cause, Clock, Metrics, Reading, Sensors, Throttle, merged
from edge.sensors._files import Tree
from edge.sensors._nvml import GRAPHICS, LOSSES, MEMORY, REFUSALS, Handle, Nvml, NvmlError, find

log = logging.getLogger(__name__)

T = TypeVar("T")

_HARDWARE_SLOWDOWN = 0x08
_CAUSES: dict[int, tuple[Cause, str]] = {
    0x20: ("thermal", "the driver keeps it cool"),
    0x40: ("thermal", "the hardware is too hot"),
    0x80: ("power", "the board's supply asks to brake"),
}
"""By bit. The limit of power (4) is left out: a GPU at work runs into it, as it is meant to; so are
what was set (2, 16, 256) and that there is nothing to do (1)."""

_KNOWN_SLOWDOWNS = 0xE0
_PEAK: tuple[Cause, str] = ("over-current", "the hardware slows down, as it draws too much at once")
"""A slowdown of the hardware that is neither of heat nor asked for from outside."""

_CLOCKS = {GRAPHICS: "", MEMORY: "-memory"}


class NvidiaSensors:
    """All GPUs of the driver as gpu-0, gpu-1…: names stay with their GPUs while this runs."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._nvml: Nvml | None = None
        self._is_begun = False
        self._is_mute = False
        self._known: dict[str, _Gpu] = {}
        self._gpus: list[_Gpu] = []

    def probe(self) -> None:
        if self._nvml is None:
            self._nvml = find(self._tree)
        if self._nvml is None or self._is_mute:
            return
        if not self._is_begun or self._has_lost():
            self._begin(self._nvml)

    def read(self, now_s: float) -> Reading:
        return merged([gpu.read() for gpu in self._gpus])

    def _begin(self, nvml: Nvml) -> None:
        """Look for GPUs, also after one fell off the bus or the driver was loaded anew."""
        self._end(nvml)
        try:
            nvml.init()
            self._is_begun = True
            handles = nvml.handles()
        except NvmlError as error:
            log.debug("no NVIDIA GPU can be asked: %s", error)
            self._end(nvml)
            return
        found = [(gpu, handle) for handle in handles if (gpu := self._gpu(nvml, handle))]
        self._gpus = [gpu for gpu, handle in found if gpu.attach(handle)]
        self._is_mute = bool(found) and not self._gpus and not self._has_lost()
        if not self._gpus:
            self._end(nvml)

    def _end(self, nvml: Nvml) -> None:
        self._gpus = []
        if self._is_begun:
            self._is_begun = False
            with contextlib.suppress(NvmlError):
                nvml.shutdown()

    def _has_lost(self) -> bool:
        return any(gpu.is_lost for gpu in self._known.values())

    def _gpu(self, nvml: Nvml, handle: Handle) -> _Gpu | None:
        """The one that it is; None while it is lost."""
        try:
            key = nvml.uuid(handle)
        except NvmlError as error:
            if error.code in LOSSES:
                return None
            key = ""
        return self._known.setdefault(key, _Gpu(f"gpu-{len(self._known)}", nvml))


class _Gpu:
    """One GPU; what it refuses is not asked for again until it is attached anew.

    Attributes:
        is_lost: It answers no more, and is asked nothing.
    """

    def __init__(self, name: str, nvml: Nvml) -> None:
        self.is_lost = False
        self._name = name
        self._nvml = nvml
        self._handle = Handle()
        self._refused: set[tuple[object, ...]] = set()
        self._answers = 0
        self._energy = _Energy()
        self._has_told = False
        self._has_power = False
        self._passive: dict[str, float] = {}
        self._most: dict[int, int | None] = {}

    def attach(self, handle: Handle) -> bool:
        """Ask anew for all, and say whether it tells anything."""
        self._handle, self.is_lost = handle, False
        self._has_told = self._has_power = False
        self._refused.clear()
        self._most = {clock: self._ask(self._nvml.most_megahertz, clock) for clock in _CLOCKS}
        passive = self._ask(self._nvml.slowdown_celsius)
        self._passive = {} if passive is None else {self._name: float(passive)}
        reading = self.read()
        self._has_told = self._answers > 0
        self._has_power = bool(reading.power_watts) or reading.total_joules is not None
        return self._has_told and not self.is_lost

    def read(self) -> Reading:
        name, nvml = self._name, self._nvml
        self._answers = 0
        celsius = self._ask(nvml.celsius)
        milliwatts = self._ask(nvml.milliwatts)
        joules = self._energy.count(self._ask(nvml.millijoules))
        watts = None if milliwatts is None else milliwatts / 1e3
        reading = Reading(
            temperature_celsius={} if celsius is None else {name: float(celsius)},
            passive_celsius=self._passive,
            power_watts={} if watts is None else {name: watts},
            total_watts=watts,
            total_rail=name if self._has_power else "",
            total_joules=joules,
            clocks=self._clocks(),
            throttles=self._throttles(),
            figures=self._figures(),
        )
        if self._has_told and not self._answers:
            self._lose("it answers nothing")
        return reading

    def _clocks(self) -> dict[str, Clock]:
        clocks = {}
        for clock, ending in _CLOCKS.items():
            now = self._ask(self._nvml.megahertz, clock)
            if now is not None:
                limit = self._ask(self._nvml.limit_megahertz, clock)
                clocks[f"{self._name}{ending}"] = Clock.of_megahertz(now, limit, self._most[clock])
        return clocks

    def _throttles(self) -> tuple[Throttle, ...]:
        bits = self._ask(self._nvml.slowed_by) or 0
        found = [said for bit, said in _CAUSES.items() if bits & bit]
        if bits & _HARDWARE_SLOWDOWN and not bits & _KNOWN_SLOWDOWNS:
            found.append(_PEAK)
        return tuple(Throttle(cause, f"{self._name}: {why}") for cause, why in found)

    def _figures(self) -> Metrics:
        nvml = self._nvml
        load, memory = self._ask(nvml.load_percent), self._ask(nvml.memory_bytes)
        used, size = memory or (None, None)
        now = self._ask(nvml.milliwatts_now)
        told = {
            "gpu_load_percent": load,
            "gpu_memory_used_bytes": used,
            "gpu_memory_total_bytes": size,
            "gpu_power_now_watts": None if now is None else now / 1e3,
            "fan_percent": self._ask(nvml.fan_percent),
        }
        figures: Metrics = {
            key: {self._name: value} for key, value in told.items() if value is not None
        }
        return figures if load is None else figures | {"gpu_percent": float(load)}

    def _ask(self, query: Callable[..., T], *arguments: int) -> T | None:
        if self.is_lost or (query, *arguments) in self._refused:
            return None
        try:
            answer = query(self._handle, *arguments)
        except NvmlError as error:
            if error.code in LOSSES:
                self._lose(str(error))
            elif error.code in REFUSALS:
                self._refused.add((query, *arguments))
            return None
        self._answers += 1
        return answer

    def _lose(self, why: str) -> None:
        is_new, self.is_lost = not self.is_lost, True
        if is_new and self._has_told:
            log.warning("%s can't be asked any more, and is looked for anew: %s", self._name, why)


class _Energy:
    """Joules since the first count; None where the driver begins to count anew."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._millijoules = 0

    def count(self, millijoules: int | None) -> float | None:
        if millijoules is None:
            return None
        last, self._last = self._last, millijoules
        if last is not None and millijoules < last:
            return None
        self._millijoules += millijoules - (millijoules if last is None else last)
        return self._millijoules / 1e3


SENSORS: type[Sensors] = NvidiaSensors

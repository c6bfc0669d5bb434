"""What processors of Intel and AMD tell of their power, of their GPU and NPU, and of what holds
them back.

After Documentation/power/powercap/powercap.rst, Documentation/ABI/testing/sysfs-devices-system-cpu
(thermal_throttle), sysfs-driver-intel-xe and sysfs-driver-ivpu of the Linux kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge.sensors import Clock, Metrics, Reading, Sensors, Throttle, total
from edge.sensors._files import Tree

_THROTTLED_SHARE = 0.1
"""A processor that boosts touches its limit all the time: less than that of the time is normal."""

_GPU_REASONS = {
    "sys/class/drm/card*/device/tile*/gt*/freq0/throttle/reason_thermal": "thermal",  # xe
    "sys/class/drm/card*/device/tile*/gt*/freq0/throttle/reason_prochot": "PROCHOT",
    "sys/class/drm/card*/gt/gt*/throttle_reason_thermal": "thermal",  # i915
    "sys/class/drm/card*/gt/gt*/throttle_reason_prochot": "PROCHOT",
}
"""Those of power limits are left out: a GPU at work runs into its limit, as it is meant to."""

_PLATFORM = "psys"
_MOST_WATTS = 1000
"""More than any package draws. A counter that seems to have passed its end at more was set back,
as after a sleep; one that could have passed its end twice since the last reading tells nothing."""

_NONSENSE_WATTS = 10_000
_STEP_S = 0.01  # counters move in steps of milliseconds


_IDLE = (
    "sys/class/drm/card*/device/tile*/gt*/gtidle/idle_residency_ms",  # xe
    "sys/class/drm/card*/gt/gt*/rc6_residency_ms",  # i915
)
"""How long a GPU's engines have slept; what is left is an upper bound of how long they worked."""


class _Rate:
    """What a counter rose by per second, since it was read last."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last: tuple[float, int] | None = None

    def read(self, tree: Tree, now_s: float) -> float | None:
        count = tree.figure(self._path)
        last, self._last = self._last, None if count is None else (now_s, count)
        if count is None or last is None or now_s <= last[0]:
            return None
        rise = count - last[1]
        return rise / (now_s - last[0]) if rise >= 0 else None

    def forget(self) -> None:
        """Begin anew."""
        self._last = None


class _EnergyCounter:
    """One zone's microjoules, counted on where the file starts again at 0.

    Attributes:
        watts: Since the last reading.
        joules: Since the first reading; None in one after which it begins anew.
    """

    def __init__(self, path: str, span: int) -> None:
        self.watts: float | None = None
        self.joules: float | None = None
        self._path = path
        self._span = span
        self._last: tuple[float, int] | None = None
        self._microjoules = 0

    def read(self, tree: Tree, now_s: float) -> None:
        count = tree.figure(self._path)
        last, self._last = self._last, None if count is None else (now_s, count)
        self.watts = self.joules = None
        if count is None:
            return
        elapsed_s, rise = (0.0, 0) if last is None else (now_s - last[0], count - last[1])
        longest_s = self._span / 1e6 / _MOST_WATTS
        if rise < 0:
            rise += self._span + 1
            if rise < 0 or rise / 1e6 > _MOST_WATTS * elapsed_s:
                return
        if rise / 1e6 > _NONSENSE_WATTS * max(elapsed_s, _STEP_S):
            return
        if self._span and elapsed_s > longest_s:
            return
        self._microjoules += rise
        self.joules = self._microjoules / 1e6
        self.watts = rise / 1e6 / elapsed_s if elapsed_s > 0 else None


class _IdleGpu:
    """An Intel GPU by what its parts (render, media) slept, each told in milliseconds."""

    def __init__(self, card: str) -> None:
        self._status = f"{card}/device/power/runtime_status"
        self._parts: dict[str, _Rate] = {}

    def add(self, path: str) -> None:
        self._parts.setdefault(path, _Rate(path))

    def load_percent(self, tree: Tree, now_s: float) -> float | None:
        """Of its busiest part. To read the counter of a GPU that is off would wake it up."""
        if tree.text(self._status) == "suspended":
            for part in self._parts.values():
                part.forget()
            return 0.0
        rates = [part.read(tree, now_s) for part in self._parts.values()]
        busy = [100.0 - per_s / 10 for per_s in rates if per_s is not None]
        return round(min(100.0, max(0.0, *busy)), 1) if busy else None


class EnergyCounters:
    """What the processor's packages, their parts and the platform have used (RAPL).

    Documentation/power/powercap/powercap.rst of the Linux kernel: ``energy_uj`` counts up to
    ``max_energy_range_uj`` and starts again at 0. Usually only root may read it.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._zones: dict[str, _EnergyCounter] = {}

    def probe(self) -> None:
        tree = self._tree
        for zone in tree.entries(tree.at("sys/class/powercap"), "intel-rapl:"):
            package = tree.text(f"{zone.rpartition(':')[0]}/name") if zone.count(":") > 1 else None
            name = tree.text(f"{zone}/name") or ""
            rail = f"{package}-{name}" if package else name
            span = tree.integer(f"{zone}/max_energy_range_uj") or 0
            if rail and rail not in self._zones and tree.integer(f"{zone}/energy_uj") is not None:
                self._zones[rail] = _EnergyCounter(f"{zone}/energy_uj", span)

    def read(self, now_s: float) -> Reading:
        """Watts since the last call, and joules since the first."""
        for zone in self._zones.values():
            zone.read(self._tree, now_s)
        watts = {rail: w for rail, zone in self._zones.items() if (w := zone.watts) is not None}
        whole = _whole(self._zones)
        return Reading(
            power_watts={rail: round(value, 2) for rail, value in watts.items()},
            total_watts=total([self._zones[rail].watts for rail in whole], 2),
            total_rail="+".join(whole),
            total_joules=total([self._zones[rail].joules for rail in whole], 6),
            is_board=whole == [_PLATFORM],
        )


def energy_counters(root: Path = Path("/")) -> EnergyCounters:
    """Those of the machine whose file system is at ``root``; there may be none."""
    counters = EnergyCounters(Tree(root))
    counters.probe()
    return counters


class X86Sensors:
    """Energy counters of packages (which usually only root may read), throttling, GPU and NPU."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._energy = EnergyCounters(tree)
        self._throttled: dict[str, _Rate] = {}
        self._gpus: dict[str, _IdleGpu] = {}
        self._gpu_reasons: list[tuple[str, str]] = []
        self._npus: dict[str, _Rate] = {}

    def probe(self) -> None:
        tree = self._tree
        self._energy.probe()
        counters = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms"
        for path in tree.glob(counters):
            self._throttled.setdefault(path, _Rate(path))
        for path in (path for pattern in _IDLE for path in tree.glob(pattern)):
            if tree.text(f"{path.rpartition('/')[0]}/rc6_enable") != "0":
                card = re.sub(r"(/drm/card\d+)/.*", r"\1", path)
                self._gpus.setdefault(card, _IdleGpu(card)).add(path)
        self._gpu_reasons = [
            (path, why) for pattern, why in _GPU_REASONS.items() for path in tree.glob(pattern)
        ]
        for path in tree.glob("sys/class/accel/accel*/device/npu_busy_time_us"):
            self._npus.setdefault(path.rpartition("/")[0], _Rate(path))

    def read(self, now_s: float) -> Reading:
        return msgspec.structs.replace(
            self._energy.read(now_s),
            clocks=self._npu_clocks(),
            throttles=self._throttles(now_s),
            figures=self._gpu_loads(now_s) | self._npu_figures(now_s),
        )

    def _throttles(self, now_s: float) -> tuple[Throttle, ...]:
        found = []
        for rate in self._throttled.values():
            per_s = rate.read(self._tree, now_s)
            if per_s is not None and per_s > 1000 * _THROTTLED_SHARE:
                why = f"the processor was too hot for {min(per_s / 10, 100):.0f} % of the time"
                found.append(Throttle("thermal", why))
        for path, reason in self._gpu_reasons:
            if self._tree.integer(path):
                found.append(Throttle("thermal", f"the GPU is held back: {reason}"))
        return tuple(found)

    def _gpu_loads(self, now_s: float) -> Metrics:
        loads = {
            card.rpartition("/")[2]: load
            for card, gpu in self._gpus.items()
            if (load := gpu.load_percent(self._tree, now_s)) is not None
        }
        return {"gpu_load_percent": loads, "gpu_percent": max(loads.values())} if loads else {}

    def _npu_figures(self, now_s: float) -> Metrics:
        figures: Metrics = {}
        loads = [rate.read(self._tree, now_s) for rate in self._npus.values()]
        busy = [per_s / 1e4 for per_s in loads if per_s is not None]
        if busy:
            figures["npu_percent"] = round(min(100.0, max(busy)), 1)
        sizes = [self._tree.integer(f"{npu}/npu_memory_utilization") for npu in self._npus]
        used = [size for size in sizes if size is not None and size >= 0]
        if used:
            figures["npu_memory_used_bytes"] = sum(used)
        return figures

    def _npu_clocks(self) -> dict[str, Clock]:
        """Now is 0 while it sleeps. Kernels before 6.16 do not tell."""
        clocks = {}
        for index, npu in enumerate(self._npus):
            now, most = (
                self._tree.integer(f"{npu}/npu_{which}_frequency_mhz")
                for which in ("current", "max")
            )
            if now is not None or most is not None:
                clocks[f"npu-{index}"] = Clock.of_megahertz(now, None, most)
        return clocks


def _whole(rails: Iterable[str]) -> list[str]:
    """The whole platform if it is measured, else all packages and their memory."""
    found = sorted(rails)
    return [_PLATFORM] if _PLATFORM in found else [rail for rail in found if _is_whole(rail)]


def _is_whole(rail: str) -> bool:
    """A package, or memory, which is beside the package; cores and graphics are within it."""
    head, _, part = rail.rpartition("-")
    return part == "dram" or (head == "package" and part.isdigit())


SENSORS: type[Sensors] = X86Sensors

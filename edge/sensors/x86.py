"""What processors of Intel and AMD tell of their power, and of what holds them back.

After Documentation/power/powercap/powercap.rst, Documentation/ABI/testing/sysfs-devices-system-cpu
(thermal_throttle), sysfs-driver-intel-xe and sysfs-driver-ivpu of the Linux kernel.
"""

from __future__ import annotations

from edge.sensors import Metrics, Reading, Sensors, Throttle
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


class _Rate:
    """What a counter rose by per second, since it was read last."""

    def __init__(self, path: str, span: int = 0) -> None:
        self.path = path
        self._span = span
        self._last: tuple[float, int] | None = None

    def read(self, tree: Tree, now_s: float) -> float | None:
        count = tree.figure(self.path)
        last, self._last = self._last, None if count is None else (now_s, count)
        if count is None or last is None or now_s <= last[0]:
            return None
        rise = count - last[1]
        if rise < 0 and self._span:  # it starts again at 0
            rise += self._span + 1
        return rise / (now_s - last[0]) if rise >= 0 else None


class X86Sensors:
    """Energy counters of packages (which usually only root may read), throttle counters, NPU."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._energy: dict[str, _Rate] = {}
        self._throttled: dict[str, _Rate] = {}
        self._npus: dict[str, _Rate] = {}
        self._gpu_reasons: list[tuple[str, str]] = []

    def probe(self) -> None:
        tree = self._tree
        for zone in tree.entries(tree.at("sys/class/powercap"), "intel-rapl:"):
            package = tree.text(f"{zone.rpartition(':')[0]}/name") if zone.count(":") > 1 else None
            name = tree.text(f"{zone}/name") or ""
            rail = f"{package}-{name}" if package else name
            span = tree.integer(f"{zone}/max_energy_range_uj") or 0
            if rail and rail not in self._energy and tree.integer(f"{zone}/energy_uj") is not None:
                self._energy[rail] = _Rate(f"{zone}/energy_uj", span)
        counters = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms"
        for path in tree.glob(counters):
            self._throttled.setdefault(path, _Rate(path))
        for path in tree.glob("sys/class/accel/accel*/device/npu_busy_time_us"):
            self._npus.setdefault(path, _Rate(path))
        self._gpu_reasons = [
            (path, why) for pattern, why in _GPU_REASONS.items() for path in tree.glob(pattern)
        ]

    def read(self, now_s: float) -> Reading:
        microwatts = {
            rail: value
            for rail, rate in self._energy.items()
            if (value := rate.read(self._tree, now_s)) is not None
        }
        watts = {rail: round(value / 1e6, 2) for rail, value in microwatts.items()}
        return Reading(
            power_watts=watts,
            total_watts=_total(watts),
            throttles=self._throttles(now_s),
            figures=self._loads(now_s),
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

    def _loads(self, now_s: float) -> Metrics:
        loads = [rate.read(self._tree, now_s) for rate in self._npus.values()]
        busy = [per_s / 1e4 for per_s in loads if per_s is not None]
        return {"npu_percent": round(min(100.0, max(busy)), 1)} if busy else {}


def _total(watts: dict[str, float]) -> float | None:
    """Of the whole platform if it is measured, else of all packages and their memory."""
    if "psys" in watts:
        return watts["psys"]
    wholes = [value for rail, value in watts.items() if _is_whole(rail)]
    return round(sum(wholes), 2) if wholes else None


def _is_whole(rail: str) -> bool:
    """A package, or memory, which is beside the package; cores and graphics are within it."""
    head, _, part = rail.rpartition("-")
    return part == "dram" or (head == "package" and part.isdigit())


SENSORS: type[Sensors] = X86Sensors

"""How fast processors and accelerators run, may run, and could run: cpufreq and devfreq.

After Documentation/admin-guide/pm/cpufreq.rst and Documentation/ABI/testing/sysfs-class-devfreq of
the Linux kernel. A limit below the maximum is no throttle by itself: a power mode sets it as well.
One that falls while this looks on is, of a cause that cpufreq does not know.
"""

from __future__ import annotations

from edge.sensors import Clock, Reading, Sensors, Throttle
from edge.sensors._files import Tree, to_integer


class ClockSensors:
    """One clock for all cores of a kind: on x86 each costs an interrupt on its core to read."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._policies: list[tuple[str, str, int | None]] = []
        self._devices: list[tuple[str, str, int | None]] = []
        self._highest: dict[str, int] = {}

    def probe(self) -> None:
        kinds: dict[int | None, tuple[str, str, int | None]] = {}
        for policy in self._tree.entries(self._tree.at("sys/devices/system/cpu/cpufreq"), "policy"):
            maximum_hz = _hertz(self._tree.integer(f"{policy}/cpuinfo_max_freq"))
            name = f"cpu{policy.rpartition('policy')[2]}"
            kinds.setdefault(maximum_hz, (name, policy, maximum_hz))
        self._policies = sorted(kinds.values())
        self._devices = [
            (device.rpartition("/")[2], device, self._fastest(device))
            for device in self._tree.entries(self._tree.at("sys/class/devfreq"))
        ]

    def read(self, now_s: float) -> Reading:
        integer = self._tree.integer
        clocks = {
            name: Clock(
                _hertz(integer(f"{policy}/scaling_cur_freq")),
                _hertz(integer(f"{policy}/scaling_max_freq")),
                maximum_hz,
            )
            for name, policy, maximum_hz in self._policies
        }
        throttles = tuple(
            Throttle("unknown", f"{name} may run {limit / 1e6:.0f} of {highest / 1e6:.0f} MHz")
            for name, clock in clocks.items()
            if (limit := clock.limit_hz) and limit < (highest := self._note(name, limit))
        )
        for name, device, maximum_hz in self._devices:
            now_hz, limit_hz = integer(f"{device}/cur_freq"), integer(f"{device}/max_freq")
            clocks[name] = Clock(now_hz, limit_hz, maximum_hz)
        return Reading(clocks=clocks, throttles=throttles)

    def _note(self, name: str, limit_hz: int) -> int:
        """The highest limit so far."""
        self._highest[name] = max(limit_hz, self._highest.get(name, limit_hz))
        return self._highest[name]

    def _fastest(self, device: str) -> int | None:
        steps = (self._tree.text(f"{device}/available_frequencies") or "").split()
        return max((step for text in steps if (step := to_integer(text)) is not None), default=None)


def _hertz(kilohertz: int | None) -> int | None:
    return None if kilohertz is None else kilohertz * 1000


SENSORS: type[Sensors] = ClockSensors

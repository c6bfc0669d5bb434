"""Temperatures, fans, and what the kernel slows down to keep cool.

After Documentation/driver-api/thermal/sysfs-api.rst and Documentation/hwmon/sysfs-interface.rst of
the Linux kernel. Numbers of zones and chips move between boots: all go by their names.
"""

from __future__ import annotations

from edge.sensors import Reading, Sensors, Throttle
from edge.sensors._files import Tree, spelled

_PLAUSIBLE_CELSIUS = (-60.0, 200.0)  # a gated sensor of a Jetson says -256
_LOWEST_TRIP_CELSIUS = 30.0  # drivers that know no trip point say 0 or -274
_SLOWING = (
    "processor",  # ACPI
    "cpufreq-",
    "devfreq-",
    "thermal-cpufreq",
    "thermal-devfreq",
    "idle-",
    "thermal-idle",
    "intel-powerclamp",
)
"""Cooling devices that slow something down; fans are no throttle. The names are those that
drivers/thermal/{cpufreq,devfreq,cpuidle}_cooling.c register, before and since Linux 5.12."""

_ALERT = "-throttle-alert"
"""On a Jetson: Developer Guide r36, Platform Power and Performance, Thermal Management."""

_SPEED = ("_input", "/rpm")
"""hwmon's ``fan1_input``, and what the tachometer of a Jetson (``pwm_tach``) has instead."""

_PWM = ("pwmfan", "pwm-fan")
_PWM_MOST = 255
"""What a fan is driven with. Boards of PCs have many such outputs, mostly of nothing."""


class ThermalSensors:
    """Thermal zones and hwmon chips; the kernel shows most zones a second time as a hwmon."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._temperatures: list[tuple[str, str]] = []
        self._passive: dict[str, float] = {}
        self._fans: list[tuple[str, str]] = []
        self._powers: list[tuple[str, str]] = []
        self._cooling: list[tuple[str, str]] = []

    def probe(self) -> None:
        zones = [(self._type(zone), zone) for zone in self._thermal("thermal_zone")]
        names = {name for name, _ in zones}
        chips = [(spelled(name), chip) for name, chip in self._tree.chips()]
        self._temperatures = [(name, f"{zone}/temp") for name, zone in zones if name]
        for name, chip in chips:
            if name not in names:
                self._temperatures += self._labelled(name, chip)
        self._passive = {}
        for name, zone in zones:
            for celsius in self._passive_trips(zone):
                self._passive[name] = min(celsius, self._passive.get(name, celsius))
        self._fans = [
            (name, path)
            for name, chip in chips
            for path in [*self._tree.entries(chip, "fan"), *self._tree.entries(chip, "rpm")]
            if path.endswith(_SPEED)
        ]
        self._powers = [
            (name, f"{chip}/pwm1")
            for name, chip in chips
            if name in _PWM and self._tree.integer(f"{chip}/pwm1") is not None
        ]
        self._cooling = [
            (name, f"{device}/cur_state")
            for device in self._thermal("cooling_device")
            if (name := self._type(device)).startswith(_SLOWING) or name.endswith(_ALERT)
        ]

    def read(self, now_s: float) -> Reading:
        speeds = [(name, self._tree.figure(path)) for name, path in self._fans]
        fans = {name: rpm for name, rpm in speeds if rpm is not None and rpm >= 0}
        powers = [(name, self._tree.figure(path)) for name, path in self._powers]
        shares = {
            name: round(pwm / _PWM_MOST * 100)
            for name, pwm in powers
            if pwm is not None and 0 <= pwm <= _PWM_MOST
        }
        states = [(name, self._tree.figure(path)) for name, path in self._cooling]
        active = [(name, state) for name, state in states if state and state > 0]
        why = ", ".join(f"{name} at {state}" for name, state in active)
        return Reading(
            temperature_celsius=self._celsius(),
            passive_celsius=self._passive,
            throttles=(Throttle("thermal", f"the kernel cools by {why}"),) if active else (),
            figures={
                key: by_name
                for key, by_name in (("fan_rpm", fans), ("fan_percent", shares))
                if by_name
            },
        )

    def _celsius(self) -> dict[str, float]:
        """By name; of several with one name, the warmest."""
        found: dict[str, float] = {}
        for name, path in self._temperatures:
            millidegrees = self._tree.figure(path)
            celsius = _plausible(millidegrees)
            if celsius is not None:
                found[name] = max(celsius, found.get(name, celsius))
        return found

    def _passive_trips(self, zone: str) -> list[float]:
        kinds = [path for path in self._tree.entries(zone, "trip_point_") if path.endswith("_type")]
        temperatures = [
            _plausible(self._tree.integer(f"{path[:-5]}_temp"))
            for path in kinds
            if self._tree.text(path) == "passive"
        ]
        return [value for value in temperatures if value and value >= _LOWEST_TRIP_CELSIUS]

    def _labelled(self, name: str, chip: str) -> list[tuple[str, str]]:
        """A chip's temperatures under their labels, but for cores: the package is the warmest."""
        found = []
        for path in self._tree.entries(chip, "temp"):
            if path.endswith("_input"):
                label = spelled(self._tree.text(f"{path[:-6]}_label") or "")
                if not label.startswith("core-"):
                    found.append((f"{name}-{label}" if label else name, path))
        return found

    def _thermal(self, prefix: str) -> list[str]:
        return self._tree.entries(self._tree.at("sys/class/thermal"), prefix)

    def _type(self, device: str) -> str:
        return spelled(self._tree.text(f"{device}/type") or "")


def _plausible(millidegrees: int | None) -> float | None:
    if millidegrees is None:
        return None
    celsius = round(millidegrees / 1000.0, 1)
    lowest, highest = _PLAUSIBLE_CELSIUS
    return celsius if lowest <= celsius <= highest else None


SENSORS: type[Sensors] = ThermalSensors

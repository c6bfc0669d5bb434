"""What any Linux tells: processor, memory, disk, temperatures, and this process."""

from __future__ import annotations

import os
from pathlib import Path

from edge.telemetry.sensors import Metrics, Sensors
from edge.telemetry.sensors._files import entries, read_integer, read_text, to_integer

_BUSY_FIELDS = 8  # user nice system idle iowait irq softirq steal; guest time is part of user
_IDLE, _IOWAIT = 3, 4
_UTIME, _STIME = 11, 12  # in /proc/self/stat, after the command's closing parenthesis
_PLAUSIBLE_CELSIUS = (-60.0, 200.0)  # a gated sensor of a Jetson says -256


class LinuxSensors:
    """Reads ``proc`` and ``sys`` under ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._proc = root / "proc"
        self._cpu: tuple[int, int] | None = None
        self._process: tuple[float, float] | None = None

    def sample(self) -> Metrics:
        metrics: Metrics = {}
        for part in (self._load, self._memory, self._disk, self._temperatures, self._own):
            metrics |= part()
        return metrics

    def _load(self) -> Metrics:
        metrics: Metrics = {}
        percent = self._cpu_percent()
        if percent is not None:
            metrics["cpu_percent"] = percent
        for name, text in zip(
            ("load_1m", "load_5m", "load_15m"),
            (read_text(self._proc / "loadavg") or "").split(),
            strict=False,
        ):
            value = _to_float(text)
            if value is not None:
                metrics[name] = value
        return metrics

    def _cpu_percent(self) -> float | None:
        """Busy share of all cores since the last call; waiting for a disk is not busy."""
        first_line = (read_text(self._proc / "stat") or "").partition("\n")[0].split()
        ticks = [to_integer(text) or 0 for text in first_line[1 : _BUSY_FIELDS + 1]]
        before, self._cpu = self._cpu, None
        if first_line[:1] != ["cpu"] or len(ticks) <= _IOWAIT:
            return None
        total, idle = sum(ticks), ticks[_IDLE] + ticks[_IOWAIT]
        self._cpu = (total, idle)
        if before is None or total <= before[0]:
            return None
        share = 1.0 - (idle - before[1]) / (total - before[0])
        return round(100.0 * min(1.0, max(0.0, share)), 1)  # iowait can go backwards

    def _memory(self) -> Metrics:
        sizes = _sizes_bytes(read_text(self._proc / "meminfo"))
        total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
        if not total or available is None:
            return {}
        metrics = {
            "memory_total_bytes": total,
            "memory_used_bytes": total - available,
            "memory_used_percent": round(100.0 * (total - available) / total, 1),
        }
        if swap := sizes.get("SwapTotal"):
            metrics["swap_used_bytes"] = swap - sizes.get("SwapFree", swap)
        return metrics

    def _disk(self) -> Metrics:
        try:
            disk = os.statvfs(self._root)
        except OSError:
            return {}
        return {
            "disk_total_bytes": disk.f_blocks * disk.f_frsize,
            "disk_free_bytes": disk.f_bavail * disk.f_frsize,
        }

    def _temperatures(self) -> Metrics:
        """By name, as numbers move between boots; of several with one name, the warmest."""
        found: dict[str, float] = {}
        for zone in entries(self._root / "sys/class/thermal", "thermal_zone"):
            _note(found, read_text(zone / "type"), zone / "temp")
        zones = set(found)
        for chip in entries(self._root / "sys/class/hwmon", "hwmon"):
            name = _spelled(read_text(chip / "name") or "")
            if name in zones:  # the kernel shows most zones a second time as a hwmon
                continue
            for path in entries(chip, "temp"):
                if path.name.endswith("_input"):
                    label = _spelled(read_text(path.with_name(path.name[:-5] + "label")) or "")
                    if not label.startswith("core-"):  # the package's is the warmest of them
                        _note(found, f"{name}-{label}" if label else name, path)
        if not found:
            return {}
        return {"temperature_celsius": found, "temperature_max_celsius": max(found.values())}

    def _own(self) -> Metrics:
        """What this process takes: 100 % is one core."""
        metrics: Metrics = {}
        resident = _sizes_bytes(read_text(self._proc / "self/status")).get("VmRSS")
        if resident is not None:
            metrics["process_rss_bytes"] = resident
        uptime_s = _to_float((read_text(self._proc / "uptime") or "").partition(" ")[0])
        fields = (read_text(self._proc / "self/stat") or "").rpartition(")")[2].split()
        before, self._process = self._process, None
        if uptime_s is None:
            return metrics
        metrics["uptime_s"] = int(uptime_s)
        if len(fields) <= _STIME:
            return metrics
        ticks = (to_integer(fields[_UTIME]) or 0) + (to_integer(fields[_STIME]) or 0)
        self._process = (uptime_s, ticks / os.sysconf("SC_CLK_TCK"))
        if before is not None and uptime_s > before[0]:
            share = (self._process[1] - before[1]) / (uptime_s - before[0])
            metrics["process_cpu_percent"] = round(100.0 * max(0.0, share), 1)
        return metrics


def _note(found: dict[str, float], name: str | None, path: Path) -> None:
    name = _spelled(name or "")
    millidegrees = read_integer(path)
    if not name or millidegrees is None:
        return
    celsius = round(millidegrees / 1000.0, 1)
    lowest, highest = _PLAUSIBLE_CELSIUS
    if lowest <= celsius <= highest:
        found[name] = max(celsius, found.get(name, celsius))


def _spelled(name: str) -> str:
    """``Package id 0`` and ``cpu_thermal`` as ``package-id-0`` and ``cpu-thermal``."""
    return "-".join(name.lower().replace("_", " ").split())


def _sizes_bytes(text: str | None) -> dict[str, int]:
    """``MemTotal:  8000 kB`` lines as bytes by name."""
    sizes: dict[str, int] = {}
    for line in (text or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        size = to_integer(words[0]) if words[1:] == ["kB"] else None
        if size is not None:
            sizes[name] = size * 1024
    return sizes


def _to_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


SENSORS: type[Sensors] = LinuxSensors

"""What any Linux tells: processor, memory, disk, and this process."""

from __future__ import annotations

import os

from edge.sensors import Metrics, Reading, Sensors
from edge.sensors._files import Tree, to_float, to_integer

_BUSY_FIELDS = 8  # user nice system idle iowait irq softirq steal; guest time is part of user
_IDLE, _IOWAIT = 3, 4
_UTIME, _STIME = 11, 12  # in /proc/self/stat, after the command's closing parenthesis


class LinuxSensors:
    """Reads ``proc``, and asks for the disk of the root."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._cpu: tuple[int, int] | None = None
        self._process: tuple[float, float] | None = None

    def probe(self) -> None:
        """All that is read is always there."""

    def read(self, now_s: float) -> Reading:
        figures: Metrics = {}
        for part in (self._load, self._memory, self._disk, self._own):
            figures |= part()
        return Reading(figures=figures)

    def _load(self) -> Metrics:
        metrics: Metrics = {}
        percent = self._cpu_percent()
        if percent is not None:
            metrics["cpu_percent"] = percent
        for name, text in zip(
            ("load_1m", "load_5m", "load_15m"),
            (self._proc("loadavg") or "").split(),
            strict=False,
        ):
            value = to_float(text)
            if value is not None:
                metrics[name] = value
        return metrics

    def _cpu_percent(self) -> float | None:
        """Busy share of all cores since the last call; waiting for a disk is not busy."""
        first_line = (self._proc("stat") or "").partition("\n")[0].split()
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
        sizes = _sizes_bytes(self._proc("meminfo"))
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
            disk = os.statvfs(self._tree.root)
        except OSError:
            return {}
        return {
            "disk_total_bytes": disk.f_blocks * disk.f_frsize,
            "disk_free_bytes": disk.f_bavail * disk.f_frsize,
        }

    def _own(self) -> Metrics:
        """What this process takes: 100 % is one core."""
        metrics: Metrics = {}
        resident = _sizes_bytes(self._proc("self/status")).get("VmRSS")
        if resident is not None:
            metrics["process_rss_bytes"] = resident
        uptime_s = to_float((self._proc("uptime") or "").partition(" ")[0])
        fields = (self._proc("self/stat") or "").rpartition(")")[2].split()
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

    def _proc(self, name: str) -> str | None:
        return self._tree.text(self._tree.at(f"proc/{name}"))


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


SENSORS: type[Sensors] = LinuxSensors

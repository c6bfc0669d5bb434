"""Reads small kernel files, any of which may vanish, refuse, dawdle or hold nonsense."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

_MOST_BYTES = 16 * 1024
_SLOW_S = 0.1
_REST = 100
"""A file that takes long is left alone for as many times as long: one per cent of a thread."""


class Tree:
    """The files under ``root``, where ``sys`` and ``proc`` are; what fails is logged once."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self._prefix = str(root).rstrip("/")
        self._told: set[str] = set()
        self._resting: dict[str, float] = {}

    def text(self, path: str, most_bytes: int = _MOST_BYTES) -> str | None:
        """What the file says, stripped; None when it is absent, refuses, or has nothing to say."""
        if self._resting and time.monotonic() < self._resting.get(path, 0.0):
            return None
        begin_s = time.monotonic()
        try:
            # A sensor of a gated block answers EAGAIN; nothing here may wait for it.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            return os.read(descriptor, most_bytes).decode("ascii", "replace").strip("\0 \n")
        except OSError:
            return None
        finally:
            os.close(descriptor)
            spent_s = time.monotonic() - begin_s
            if spent_s > _SLOW_S:
                self._resting[path] = begin_s + _REST * spent_s
                self._tell(path, f"takes {spent_s:.1f} s, and is asked seldom")

    def integer(self, path: str) -> int | None:
        """The file's whole number; None as with ``text``, or when it holds something else."""
        return to_integer(self.text(path))

    def figure(self, path: str) -> int | None:
        """``integer`` of a file that is there for a figure: that it gives none is logged."""
        text = self.text(path)
        value = to_integer(text)
        if value is None:
            self._tell(path, "gives nothing" if text is None else f"says {text[:40]!r}")
        return value

    def at(self, path: str) -> str:
        """The path of a file below the root."""
        return f"{self._prefix}/{path}"

    def entries(self, folder: str, prefix: str = "") -> list[str]:
        """Paths of what in ``folder`` starts with ``prefix``, sorted; none without a folder."""
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            return []
        return [f"{folder}/{name}" for name in names if name.startswith(prefix)]

    def glob(self, pattern: str) -> list[str]:
        """Paths below the root that fit ``pattern``, sorted."""
        try:
            return sorted(map(str, self.root.glob(pattern)))
        except OSError:
            return []

    def chips(self, *names: str) -> list[tuple[str, str]]:
        """Name and folder of each hwmon chip; only of those named, if any are."""
        folders = self.entries(self.at("sys/class/hwmon"), "hwmon")
        found = [(self.text(f"{chip}/name") or "", chip) for chip in folders]
        return [(name, chip) for name, chip in found if name and (not names or name in names)]

    def _tell(self, path: str, what: str) -> None:
        if path not in self._told:
            self._told.add(path)
            log.info("the sensor %s is left out: it %s", path, what)


def to_integer(text: str | None) -> int | None:
    """None for what is no number, or is one that no file of a kernel holds."""
    try:
        value = int(text or "")
    except ValueError:
        return None
    return value if abs(value) < 1 << 64 else None


def to_float(text: str | None) -> float | None:
    """None for what is no number, or none that can be reckoned with."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def spelled(name: str) -> str:
    """``Package id 0`` and ``cpu_thermal`` as ``package-id-0`` and ``cpu-thermal``."""
    return "-".join(name.lower().replace("_", " ").split())

"""Energy that the processor has used, where Linux tells (RAPL, ``/sys/class/powercap``)."""

from __future__ import annotations

import contextlib
from pathlib import Path

ROOT = Path("/")


class EnergyCounter:
    """The sum over all processor packages. Reading it usually needs root.

    See Documentation/power/powercap/powercap.rst of the Linux kernel: ``energy_uj`` counts
    microjoules up to ``max_energy_range_uj`` and starts again at 0.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._packages: list[tuple[Path, int]] = []
        for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
            if zone.name.count(":") > 1:  # a part of a package: cores, memory
                continue
            with contextlib.suppress(OSError, ValueError):
                int((zone / "energy_uj").read_text())
                span = int((zone / "max_energy_range_uj").read_text())
                self._packages.append((zone / "energy_uj", span))

    @property
    def is_available(self) -> bool:
        return bool(self._packages)

    def joules(self) -> list[int]:
        """The counters as they stand, in microjoules; only differences mean anything."""
        return [int(path.read_text()) for path, _ in self._packages]

    def since(self, before: list[int]) -> float:
        """Joules used since the counters stood at ``before``."""
        steps = zip(self._packages, before, self.joules(), strict=True)
        return sum((now - then) % (span + 1) for (_, span), then, now in steps) / 1e6

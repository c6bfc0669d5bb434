"""What the device itself measures: one module per family, each ending in ``SENSORS = …``."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, Protocol

from edge.core import plugins

log = logging.getLogger(__name__)

Metrics = dict[str, Any]
"""Name with its unit -> figure, or name -> figures by sensor. What is not there is left out."""


class Sensors(Protocol):
    """A family of sensors, made with the ``root`` under which it finds ``sys`` and ``proc``."""

    def sample(self) -> Metrics:
        """Read all of them; rates are since the last call, and absent in the first."""
        ...


class DeviceSensors:
    """All families together. One that fails is logged once, and left out while it fails."""

    def __init__(self, families: dict[str, Sensors]) -> None:
        self._families = families
        self._failing: set[str] = set()

    def sample(self) -> Metrics:
        metrics: Metrics = {}
        for name, family in self._families.items():
            try:
                metrics |= family.sample()
                self._failing.discard(name)
            except Exception:
                if name not in self._failing:
                    log.exception("the %s sensors fail and are left out", name)
                self._failing.add(name)
        return metrics


def device_sensors(root: Path = Path("/")) -> DeviceSensors:
    """The sensors of the machine whose file system is at ``root``."""
    return DeviceSensors(
        {
            name: importlib.import_module(f"{__name__}.{name}").SENSORS(root)
            for name in plugins.stems(__name__)
        }
    )

"""How reports are told: one module for each format, ending in ``FORMAT = …``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from edge.core import plugins
from edge.core.errors import SettingsError
from edge.settings import Settings
from edge.telemetry.reports import Report
from edge.telemetry.sender import Sender
from edge.telemetry.topics import Topics


class Outlet(msgspec.Struct, frozen=True):
    """Where a format tells what it has to tell.

    Attributes:
        sender: Of all formats together; not started yet when a format is made.
        folder: For what must survive a restart; None for nothing does.
    """

    sender: Sender
    topics: Topics
    settings: Settings
    folder: Path | None


class Format(Protocol):
    """A rendering of all reports; made with an `Outlet`."""

    def start(self) -> None:
        """Start what it needs besides the sender."""
        ...

    def tell(self, reports: Sequence[Report]) -> None:
        """Tell what there is; always called by the same thread, which must not wait."""
        ...

    def close(self, timeout_s: float) -> None:
        """End what was started, within ``timeout_s``."""
        ...


def formats(outlet: Outlet) -> dict[str, Format]:
    """Those that the settings name.

    Raises:
        SettingsError: There is no such format, or it can't be used with these settings.
    """
    known, wanted = plugins.stems(__name__), outlet.settings.mqtt.formats
    for name in wanted:
        if name not in known:
            raise SettingsError(
                f"[mqtt] formats: no format named {name!r}", hint=f"there are: {', '.join(known)}"
            )
    return {
        name: importlib.import_module(f"{__name__}.{name}").FORMAT(outlet)
        for name in dict.fromkeys(wanted)
    }

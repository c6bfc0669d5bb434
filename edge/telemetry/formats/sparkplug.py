"""Sparkplug B 3.0: the device as an edge node, and its models as the devices of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edge.core.errors import SettingsError
from edge.telemetry.address import brokers_of
from edge.telemetry.figures import Figures
from edge.telemetry.formats import Format, Outlet
from edge.telemetry.formats._sparkplug.births import Births
from edge.telemetry.formats._sparkplug.history import History
from edge.telemetry.formats._sparkplug.node import EdgeNode, Pace
from edge.telemetry.formats._sparkplug.primary_host import PrimaryHost
from edge.telemetry.formats._sparkplug.session import Names
from edge.telemetry.reports import Report


class SparkplugFormat:
    """Beside JSON or instead of it. Events are metrics, and so are those of commands."""

    def __init__(self, outlet: Outlet) -> None:
        settings = outlet.settings.sparkplug
        topics = outlet.topics
        names = Names(settings.group or topics.fleet, settings.node or topics.device)
        if names.group == "STATE":
            raise SettingsError(
                "the Sparkplug group can not be STATE", hint="set another in [sparkplug] group"
            )
        host = PrimaryHost(settings.primary_host) if settings.primary_host else None
        mqtt = outlet.settings.mqtt
        pace = Pace(keepalive_s=mqtt.keepalive_s)
        births = Births(_beside(outlet.folder, "bdSeq"))
        history = History(_beside(outlet.folder, "sparkplug"))
        self._figures = Figures()
        self._node = EdgeNode(brokers_of(mqtt), names, births, history, host=host, pace=pace)
        note_command = partial(self._node.note, "command")  # which no report tells of
        outlet.sender.overhear(topics.of("event", "command"), note_command)

    def start(self) -> None:
        self._node.start()

    def tell(self, reports: Sequence[Report]) -> None:
        self._figures.take(reports)
        figures = list(self._figures)
        if any(figure.path == ("tele", "device") for figure in figures):  # it is the first sample
            self._node.tell(figures)
        for report in reports:
            if report.kind == "event":
                self._node.note(report.path[-1], report.metrics)

    def close(self, timeout_s: float) -> None:
        self._node.close(timeout_s)


def _beside(folder: Path | None, ending: str) -> Path | None:
    """A name for what survives; the folder itself is the outbox's alone."""
    return None if folder is None else folder.with_name(f"{folder.name}.{ending}")


FORMAT: type[Format] = SparkplugFormat

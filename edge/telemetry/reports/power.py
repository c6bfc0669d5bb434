"""What is held back for heat and power, and why."""

from __future__ import annotations

from collections.abc import Iterable

from edge.host.governor import Strain
from edge.telemetry.reports import Report, Reporter, Subject


class PowerReporter:
    """The limits beside the device's own figures; an event when they or their cause change."""

    def __init__(self, subject: Subject) -> None:
        self._source = subject.source
        self._strain = Strain()

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        strain = self._source.strain
        if strain is None:
            return
        if is_due:
            yield Report(("tele", "device"), strain.summary())
        before, self._strain = self._strain, strain
        if (strain.level, strain.cause) != (before.level, before.cause):  # not each step of a rate
            change = {"name": "power", "from": before.level, "to": strain.level, "why": strain.why}
            yield Report(("event", "power"), {**change, **strain.summary()}, "event")


REPORTER: type[Reporter] = PowerReporter

"""What the device's own sensors say."""

from __future__ import annotations

from collections.abc import Iterable

from edge.telemetry.reports import Report, Reporter, Subject


class DeviceReporter:
    """A reading of all sensors for each interval."""

    def __init__(self, subject: Subject) -> None:
        self._sensors = subject.sensors
        self._has_begun = False

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        if is_due or not self._has_begun:  # rates need a beginning
            self._has_begun = True
            reading = self._sensors.read()
            if is_due:
                yield Report(("tele", "device"), reading.metrics())


REPORTER: type[Reporter] = DeviceReporter

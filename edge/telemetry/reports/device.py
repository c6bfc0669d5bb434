"""What the device's own sensors say."""

from __future__ import annotations

from collections.abc import Iterable

from edge.sensors import Reading
from edge.telemetry.reports import Report, Reporter, Subject


class DeviceReporter:
    """A reading of all sensors for each interval.

    Where somebody reads them anyway, for heat and power, that reading serves: they are slow.
    """

    def __init__(self, subject: Subject) -> None:
        self._source = subject.source
        self._sensors = subject.sensors
        self._has_begun = False

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        strain = self._source.strain
        if strain is not None and strain.reading != Reading():
            if is_due:
                yield Report(("tele", "device"), strain.reading.metrics())
        elif is_due or not self._has_begun:  # rates need a beginning
            self._has_begun = True
            reading = self._sensors.read()
            if is_due:
                yield Report(("tele", "device"), reading.metrics())


REPORTER: type[Reporter] = DeviceReporter

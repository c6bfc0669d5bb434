"""JSON in an envelope, under ``edge/v1/…``: the format that loses nothing."""

from __future__ import annotations

from collections.abc import Sequence

from edge.telemetry.formats import Format, Outlet
from edge.telemetry.reports import Report


class JsonFormat:
    """Each report as a message of its own."""

    def __init__(self, outlet: Outlet) -> None:
        self._sender = outlet.sender
        self._topics = outlet.topics

    def start(self) -> None:
        """There is nothing but the sender."""

    def tell(self, reports: Sequence[Report]) -> None:
        failure: Exception | None = None
        for report in reports:
            try:
                self._tell(report)
            except Exception as error:  # the others are told all the same
                failure = error
        if failure is not None:
            raise failure

    def _tell(self, report: Report) -> None:
        topic = self._topics.of(*report.path)
        if report.kind == "retained":
            self._sender.retain(topic, report.metrics or b"")
        else:
            self._sender.send(topic, report.metrics, is_event=report.kind == "event")

    def close(self, timeout_s: float) -> None:
        """There is nothing but the sender."""


FORMAT: type[Format] = JsonFormat

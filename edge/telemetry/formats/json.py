"""JSON in an envelope, under ``edge/v1/…``: the format that loses nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edge.telemetry.formats import Format, Outlet
from edge.telemetry.link import Received
from edge.telemetry.reports import Report


class JsonFormat:
    """Each report as a message of its own.

    Models that went while we were not there are cleared too: the broker says which it has.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._sender = outlet.sender
        self._topics = outlet.topics
        self._retained: set[str] = set()
        self._recalled: deque[str] = deque()
        self._sender.listen(f"{self._topics.of('model')}/+", self._recall)

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
        knows_models = self._topics.of("info") in self._retained  # it is told with them
        while knows_models and self._recalled:
            topic = self._recalled.popleft()
            if topic not in self._retained:
                self._sender.retain(topic, b"")

    def _tell(self, report: Report) -> None:
        topic = self._topics.of(*report.path)
        if report.kind == "retained":
            self._retained.add(topic)
            self._sender.retain(topic, report.metrics or b"")
        else:
            self._sender.send(topic, report.metrics, is_event=report.kind == "event")

    def _recall(self, received: Received) -> None:
        if received.payload:
            self._recalled.append(received.topic)

    def close(self, timeout_s: float) -> None:
        """There is nothing but the sender."""


FORMAT: type[Format] = JsonFormat

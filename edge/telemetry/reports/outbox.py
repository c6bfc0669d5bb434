"""What waits for the broker, and what keeping it has cost the flash."""

from __future__ import annotations

from collections.abc import Iterable

from edge.telemetry.outbox import Status
from edge.telemetry.reports import Metrics, Report, Reporter, Subject


class OutboxReporter:
    """The outbox, beside the device's own figures."""

    def __init__(self, subject: Subject) -> None:
        self._backlog = subject.backlog

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        if is_due:
            yield Report(("tele", "device"), outbox_metrics(self._backlog.status()))


def outbox_metrics(status: Status) -> Metrics:
    """Counters are since the start."""
    metrics: Metrics = {
        "outbox_is_durable": status.is_durable,
        "outbox_waiting_bytes": status.waiting_bytes,
        "outbox_dropped_count": status.dropped_count,
        "outbox_record_count": status.record_count,
        "outbox_written_bytes": status.wear.bytes,
        "outbox_page_bytes": status.wear.page_bytes,
        "outbox_sync_count": status.wear.syncs,
    }
    if status.failure:
        metrics["outbox_failure"] = status.failure
    return metrics


REPORTER: type[Reporter] = OutboxReporter

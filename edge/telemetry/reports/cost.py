"""What inferences cost, in joules and in money."""

from __future__ import annotations

from collections.abc import Iterable

from edge.telemetry.reports import Report, Reporter, Subject

_RETAIN_EVERY_NS = 60_000_000_000
"""A state for who comes later; as it changes all the time, seldom."""


class CostReporter:
    """Each interval a sample, and each minute a state that stays at the broker."""

    def __init__(self, subject: Subject) -> None:
        self._source = subject.source
        self._retained_ns: int | None = None

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        report = self._source.cost
        if report is None or not is_due or not report.seconds:
            return
        metrics = report.metrics()
        yield Report(("tele", "cost"), metrics)
        if self._retained_ns is None or now_ns - self._retained_ns >= _RETAIN_EVERY_NS:
            self._retained_ns = now_ns
            yield Report(("cost",), metrics, "retained")


REPORTER: type[Reporter] = CostReporter

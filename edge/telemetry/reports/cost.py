"""What inferences cost, in joules and in money."""

from __future__ import annotations

from collections.abc import Iterable

from edge.telemetry.reports import Report, Reporter, Subject

_RETAIN_EVERY_NS = 60_000_000_000
"""A state for who comes later; as it changes all the time, seldom."""


class CostReporter:
    """Each interval a sample; each minute, and with each new model, a state that stays."""

    def __init__(self, subject: Subject) -> None:
        self._source = subject.source
        self._retained_ns = 0
        self._models = -1

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        report = self._source.cost
        if report is None or not is_due or not report.seconds:
            return
        metrics = report.metrics()
        yield Report(("tele", "cost"), metrics)
        is_old = now_ns - self._retained_ns >= _RETAIN_EVERY_NS
        if is_old or self._models != len(report.models):
            self._retained_ns, self._models = now_ns, len(report.models)
            yield Report(("cost",), metrics, "retained")


REPORTER: type[Reporter] = CostReporter

"""Which models there are, what state they are in, and what they did."""

from __future__ import annotations

from collections.abc import Iterable

from edge.telemetry.metrics import ModelMeter, Transitions, device_info, model_metrics
from edge.telemetry.reports import Report, Reporter, Subject


class ModelsReporter:
    """States as they change, also with each percent of a build, and figures for each interval."""

    def __init__(self, subject: Subject) -> None:
        self._source = subject.source
        self._meter = ModelMeter()
        self._transitions = Transitions()
        self._told: set[str] = set()
        self._has_told_info = False

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        statuses = self._source.status()
        changes = self._transitions.look(statuses)
        if changes or not self._has_told_info:
            self._has_told_info = True
            yield Report(("info",), device_info(statuses), "retained")
        models = model_metrics(statuses)
        for name in sorted(self._told - set(models)):
            yield Report(("model", name), {}, "retained")
        self._told = set(models)
        for name, metrics in models.items():
            yield Report(("model", name), metrics, "retained")
        for change in changes:
            yield Report(("event", "model_state"), change.metrics(), "event")
        if is_due:
            yield Report(("tele", "model"), self._meter.measure(statuses, now_ns))


REPORTER: type[Reporter] = ModelsReporter

"""Whether models still see, say and take what they did when they were converted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edge.telemetry.reports import Metrics, Report, Reporter, Subject

if TYPE_CHECKING:
    from edge.host.health.status import ModelHealth

_ODD = ("drifted", "slow", "low")
_EVEN = ("stable", "normal")
"""What is in between, such as gathering, says nothing of either."""


class HealthReporter:
    """Figures for each interval; an event when an aspect of a model leaves, and when it is back."""

    def __init__(self, subject: Subject) -> None:
        self._source = subject.source
        self._odd: dict[tuple[str, str, str], str] = {}

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        models = self._source.health()
        there = {(model.name, model.version) for model in models}
        self._odd = {key: state for key, state in self._odd.items() if key[:2] in there}
        for model in models:
            for aspect, state in model.states.items():
                yield from self._changes(model, aspect, state)
        if is_due and models:
            yield Report(("tele", "health"), {"models": [_row(model) for model in models]})

    def _changes(self, model: ModelHealth, aspect: str, state: str) -> Iterable[Report]:
        key = (model.name, model.version, aspect)
        before = self._odd.get(key)
        if state in _ODD and before is None:
            self._odd[key] = state
            yield _event(model, aspect, "", state)
        elif state in _EVEN and before is not None:
            del self._odd[key]
            yield _event(model, aspect, before, state)


def _event(model: ModelHealth, aspect: str, before: str, now: str) -> Report:
    even = {"drift": "stable"}.get(aspect, "normal")
    details = _DETAILS[aspect](model)
    metrics = {
        "name": model.name,
        "version": model.version,
        "from": before or even,
        "to": now,
        "why": getattr(model, aspect).why,
        **details,
    }
    return Report(("event", aspect), metrics, "event")


def _row(model: ModelHealth) -> Metrics:
    row: Metrics = {"name": model.name, "version": model.version, **model.states}
    for details in _DETAILS.values():
        row |= details(model)
    return row


def _drift(model: ModelHealth) -> Metrics:
    drift = model.drift
    if not drift.window:
        return {"drift_why": drift.reason} if drift.state == "no-reference" else {}
    return {
        "drift_reference": drift.reference,
        "drift_sample_count": drift.samples,
        "drift_index": drift.indices,
        "drift_moved": [moved.name for moved in drift.moved],
    }


def _latency(model: ModelHealth) -> Metrics:
    latency = model.latency
    if not latency.reference:
        return {}
    return {
        "latency_reference": latency.reference,
        "latency_p50_ms": latency.p50_ms,
        "latency_p99_ms": latency.p99_ms,
        "latency_reference_p50_ms": latency.reference_p50_ms,
        "latency_reference_p99_ms": latency.reference_p99_ms,
        "latency_hints": list(latency.hints),
    }


def _accuracy(model: ModelHealth) -> Metrics:
    accuracy = model.accuracy
    if accuracy.value is None:
        return {}
    figures = {
        "accuracy_percent": accuracy.value,
        "accuracy_low_percent": accuracy.low,
        "accuracy_high_percent": accuracy.high,
        "accuracy_expected_percent": accuracy.expected,
    }
    known = {name: round(value, 2) for name, value in figures.items() if value is not None}
    return {"accuracy_metric": accuracy.metric, "accuracy_label_count": accuracy.count, **known}


_DETAILS = {"drift": _drift, "latency": _latency, "accuracy": _accuracy}

REPORTER: type[Reporter] = HealthReporter

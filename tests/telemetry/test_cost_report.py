"""What telemetry tells of costs: a sample each interval, and a state for who comes later."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edge.host.metering import CostReport, ModelCost
from edge.host.metering.report import Basis
from edge.telemetry.reports.cost import CostReporter

SECOND_NS = 1_000_000_000


def reporter(seconds: float) -> tuple[CostReporter, Any]:
    report = CostReport(5, seconds, seconds, 12.0, 2.0, 0.5, Basis("counter", "psys"))
    source = SimpleNamespace(cost=report)
    return CostReporter(SimpleNamespace(source=source)), source  # type: ignore[arg-type]


def test_each_interval_has_a_sample_and_each_minute_a_state() -> None:
    told, _ = reporter(10.0)
    reports = [
        one for second in range(0, 121, 5) for one in told.look(second * SECOND_NS, is_due=True)
    ]
    samples = [report for report in reports if report.kind == "telemetry"]
    states = [report for report in reports if report.kind == "retained"]
    assert {report.path for report in samples} == {("tele", "cost")}
    assert {report.path for report in states} == {("cost",)}
    assert (len(samples), len(states)) == (25, 3)
    assert samples[0].metrics["energy_joules"] == 12.0
    assert samples[0].metrics == states[0].metrics


def test_state_is_told_at_once_when_a_model_ran_first() -> None:
    told, source = reporter(10.0)
    list(told.look(0, is_due=True))
    model = ModelCost("digits", "1", 5, 1.0)
    source.cost = msgspec.structs.replace(source.cost, models=(model,))
    reports = list(told.look(SECOND_NS, is_due=True))
    assert [report.kind for report in reports] == ["telemetry", "retained"]
    assert reports[1].metrics["models"][0]["name"] == "digits"


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_nothing_is_told_before_it_is_due_or_there_is_anything(seconds: float) -> None:
    told, source = reporter(seconds)
    assert list(told.look(0, is_due=False)) == []
    if not seconds:
        assert list(told.look(0, is_due=True)) == []
    source.cost = None
    assert list(told.look(0, is_due=True)) == []

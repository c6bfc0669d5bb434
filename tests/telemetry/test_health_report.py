"""What is told of models that no longer do as they did when they were converted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge.host.health.status import Accuracy, Drift, Latency, ModelHealth, Moved
from edge.settings import Settings
from edge.telemetry.reports import Report, Subject, reporters

MOVED = Moved("input.x.spread", 0.9, 0.3, 0.5, 1.25)
STABLE = Drift("stable", reference="500 samples", samples=200, window=200, indices={"a": 0.01})
DRIFTED = msgspec.structs.replace(
    STABLE, state="drifted", moved=(MOVED,), indices={"input.x.spread": 0.9}
)
NORMAL = Latency(
    "normal",
    reference="bundle",
    count=90,
    p50_ms=2.0,
    p99_ms=3.0,
    reference_p50_ms=2.0,
    reference_p99_ms=3.0,
)
SLOW = msgspec.structs.replace(NORMAL, state="slow", p50_ms=9.0, hints=("it is hot",))
RIGHT = Accuracy("normal", metric="top1", count=99, value=90.0, low=80.0, high=95.0, expected=91.0)
LOW = msgspec.structs.replace(RIGHT, state="low", value=50.0, low=40.0, high=60.0)


class Source:
    def __init__(self) -> None:
        self.models: list[ModelHealth] = []

    def health(self) -> list[ModelHealth]:
        return self.models


class Told:
    """A reporter and the runtime that it looks at."""

    def __init__(self) -> None:
        self.source = Source()
        subject: Any = Subject(self.source, None, None, Settings())  # type: ignore[arg-type]
        self.reporter = reporters(subject)["health"]

    def look(
        self,
        drift: Drift = STABLE,
        latency: Latency = NORMAL,
        accuracy: Accuracy = RIGHT,
        *,
        is_due: bool = False,
    ) -> list[Report]:
        self.source.models = [ModelHealth("m", "1", drift, latency, accuracy)]
        return list(self.reporter.look(0, is_due=is_due))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.mark.parametrize(
    ("odd", "path", "before", "after", "why"),
    [
        ({"drift": DRIFTED}, "drift", "stable", "drifted", "input.x.spread is about 0.5, was 1.25"),
        ({"latency": SLOW}, "latency", "normal", "slow", "it is hot"),
        ({"accuracy": LOW}, "accuracy", "normal", "low", "top1 of 99 labels is 50.0 %"),
    ],
)
def test_an_event_tells_that_it_left_and_another_that_it_is_back(
    told: Told, odd: dict[str, Any], path: str, before: str, after: str, why: str
) -> None:
    assert told.look() == []
    (event,) = told.look(**odd)
    assert (event.path, event.kind) == (("event", path), "event")
    assert (event.metrics["name"], event.metrics["version"]) == ("m", "1")
    assert (event.metrics["from"], event.metrics["to"]) == (before, after)
    assert why in event.metrics["why"]
    assert told.look(**odd) == []
    (event,) = told.look()
    assert (event.metrics["from"], event.metrics["to"]) == (after, before)


def test_a_version_that_is_gone_is_not_waited_for(told: Told) -> None:
    told.look(DRIFTED)
    told.source.models = []
    assert list(told.reporter.look(0, is_due=False)) == []
    assert told.look() == []  # another one of that name and version, which never left


def test_gathering_is_neither_here_nor_there(told: Told) -> None:
    gathering = msgspec.structs.replace(STABLE, state="gathering")
    told.look(DRIFTED)
    assert told.look(gathering) == []
    assert told.look(DRIFTED) == []
    assert len(told.look()) == 1


def test_figures_are_told_when_they_are_due(told: Told) -> None:
    (report,) = told.look(DRIFTED, is_due=True)[1:]
    assert report.path == ("tele", "health")
    (row,) = report.metrics["models"]
    assert row == {
        "name": "m",
        "version": "1",
        "drift": "drifted",
        "latency": "normal",
        "accuracy": "normal",
        "drift_reference": "500 samples",
        "drift_sample_count": 200,
        "drift_index": {"input.x.spread": 0.9},
        "drift_moved": ["input.x.spread"],
        "latency_reference": "bundle",
        "latency_p50_ms": 2.0,
        "latency_p99_ms": 3.0,
        "latency_reference_p50_ms": 2.0,
        "latency_reference_p99_ms": 3.0,
        "latency_hints": [],
        "accuracy_metric": "top1",
        "accuracy_label_count": 99,
        "accuracy_percent": 90.0,
        "accuracy_low_percent": 80.0,
        "accuracy_high_percent": 95.0,
        "accuracy_expected_percent": 91.0,
    }


def test_what_is_not_known_is_left_out(told: Told) -> None:
    (report,) = told.look(
        Drift("no-reference", "the bundle holds none"),
        Latency("gathering"),
        Accuracy("off"),
        is_due=True,
    )
    (row,) = report.metrics["models"]
    assert row["drift_why"] == "the bundle holds none"
    assert not [name for name in row if name.startswith(("latency_", "accuracy_"))]


def test_a_runtime_without_models_tells_nothing(told: Told) -> None:
    assert list(told.reporter.look(0, is_due=True)) == []

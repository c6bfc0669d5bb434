"""When a model's stream has left its reference, and when it is back."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edge.host.health.distribution import MAJOR
from edge.host.health.drift import DriftWatch
from edge.host.health.reference import SOURCE, Gathering, Reference, reference_of

WINDOW = 200
NAMES = ("input.x.mean", "input.x.spread", "output.y.mean")


class Stream:
    """Looks whose statistics are normal, the first of them shifted."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def looks(self, count: int, shift: float = 0.0) -> list[dict[str, float]]:
        values = self.random.normal(size=(count, len(NAMES)))
        values[:, 0] += shift
        return [dict(zip(NAMES, row, strict=True)) for row in values.tolist()]


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def reference(stream: Stream) -> Reference:
    gathering = Gathering()
    for look in stream.looks(300):
        gathering.add(look)
    made = reference_of("300 samples", 300, {SOURCE: gathering.distributions()})
    assert made is not None
    return made


def feed(watch: DriftWatch, looks: list[dict[str, float]], variant: str = "a") -> list[str]:
    """States, without repetitions."""
    states = [watch.status.state]
    for look in looks:
        watch.add(variant, look)
        if watch.status.state != states[-1]:
            states.append(watch.status.state)
    return states


def test_a_stable_stream_stays_stable(stream: Stream, reference: Reference) -> None:
    watch = DriftWatch("m", reference, WINDOW)
    assert feed(watch, stream.looks(20_000)) == ["gathering", "stable"]


def test_nothing_is_said_before_the_window_is_full(stream: Stream, reference: Reference) -> None:
    watch = DriftWatch("m", reference, WINDOW)
    assert feed(watch, stream.looks(WINDOW - 1, shift=9)) == ["gathering"]
    assert watch.status.samples == WINDOW - 1


def test_it_leaves_once_and_comes_back_once(
    stream: Stream, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watch = DriftWatch("m", reference, WINDOW)
    assert feed(watch, stream.looks(400)) == ["gathering", "stable"]
    assert feed(watch, stream.looks(600, shift=2)) == ["stable", "drifted"]
    assert [moved.name for moved in watch.status.moved] == ["input.x.mean"]
    moved = watch.status.moved[0]
    assert moved.index > moved.limit >= MAJOR
    assert moved.median == pytest.approx(2, abs=0.3)
    assert "input.x.mean is about" in watch.status.why
    assert feed(watch, stream.looks(600)) == ["drifted", "stable"]
    assert not watch.status.moved
    assert len([each for each in caplog.records if each.name.startswith("edge.host")]) == 2


def test_between_the_limits_it_stays_what_it_was(stream: Stream, reference: Reference) -> None:
    """What is above the limit for coming back, and below that for leaving, changes nothing."""
    between = 0.38
    watch = DriftWatch("m", reference, WINDOW)
    assert feed(watch, stream.looks(300, shift=between)) == ["gathering", "stable"]
    assert 0.1 < watch.status.indices["input.x.mean"] < MAJOR
    feed(watch, stream.looks(600, shift=2))
    assert feed(watch, stream.looks(300, shift=between)) == ["drifted"]


def test_a_statistic_that_can_not_be_had_any_more_has_moved(
    stream: Stream, reference: Reference
) -> None:
    watch = DriftWatch("m", reference, WINDOW)
    looks = [{k: v for k, v in look.items() if "output" not in k} for look in stream.looks(400)]
    assert feed(watch, looks)[-1] == "drifted"
    assert [moved.name for moved in watch.status.moved] == ["output.y.mean"]
    assert "output.y.mean is not there" in watch.status.why


def test_another_variant_begins_anew(
    stream: Stream, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = DriftWatch("m", reference, WINDOW)
    feed(watch, stream.looks(WINDOW, shift=9))  # which is not confirmed yet
    monkeypatch.setattr("time.time", lambda: 9e9)
    watch.add("b", stream.looks(1)[0])
    assert (watch.status.state, watch.status.since_ms) == ("gathering", 9_000_000_000_000)
    assert feed(watch, stream.looks(WINDOW - 1, shift=9), "b") == ["gathering"]
    assert feed(watch, stream.looks(WINDOW // 10, shift=9), "b") == ["gathering", "drifted"]


def test_another_variant_is_held_against_its_own_reference(stream: Stream) -> None:
    forms = {}
    for form, offset in ((SOURCE, 0.0), ("int8", 5.0)):
        gathering = Gathering()
        for look in stream.looks(300):
            gathering.add({**look, "output.y.mean": look["output.y.mean"] + offset})
        forms[form] = gathering.distributions()
    reference = reference_of("300 samples", 300, forms)
    assert reference is not None
    watch = DriftWatch("m", reference, WINDOW)
    assert feed(watch, stream.looks(400), "fp32")[-1] == "stable"
    assert feed(watch, stream.looks(400), "int8")[-1] == "drifted"
    shifted = [{**k, "output.y.mean": k["output.y.mean"] + 5.0} for k in stream.looks(600)]
    assert feed(watch, shifted, "int8")[-1] == "stable"

"""When a model is slow, against what, and what may be why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge.core.contracts import WorkerStatus
from edge.core.machine import machine
from edge.core.manifest import Latency as Measured
from edge.core.manifest import Variant
from edge.host.building import BuildProgress
from edge.host.governor import Strain
from edge.host.health.latency import WINDOW_S, LatencyWatch
from edge.host.health.status import Latency
from edge.host.statistics import Statistics
from edge.host.status import ModelStatus
from edge.settings import Health

SETTINGS = Health(slow_factor=2.0, slow_s=30.0)
HERE = f"{machine()}, null 1.0"


def variant(measured_on: str = "", p50: float = 2.0) -> Variant:
    return Variant(
        id="v",
        engine="null",
        precision="fp32",
        files=(),
        inputs=(),
        outputs=(),
        latency_ms=Measured(p50, 1.5 * p50) if measured_on else None,
        measured_on=measured_on,
    )


class Bench:
    """One model whose inferences take what they are told."""

    def __init__(self, measured_on: str = "", **fields: Any) -> None:
        self.watch = LatencyWatch(SETTINGS)
        self.statistics = Statistics()
        self.others: list[ModelStatus] = []
        self.strain: Strain | None = None
        self.variant = variant(measured_on)
        self.fields: dict[str, Any] = {"engine": "null", "variant": "v", **fields}
        self.now_s = 1000.0
        self.look()

    def look(self) -> Latency:
        status = ModelStatus("m", "1", "ready", statistics=self.statistics.snapshot())
        status = msgspec.structs.replace(status, **self.fields)
        everyone = [status, *self.others]
        self.watch.look(self.now_s, status, self.variant, everyone, self.strain)
        return self.watch.status

    def run(self, milliseconds: float, windows: int = 1, count: int = 100) -> Latency:
        for _ in range(windows):
            for _ in range(count):
                self.statistics.success(int(milliseconds * 1e6))
            self.now_s += WINDOW_S
            self.look()
        return self.watch.status


def test_the_bundles_latency_is_the_reference_where_it_was_measured_on_such_a_machine() -> None:
    status = Bench(HERE).run(2.0)
    assert (status.state, status.reference) == ("normal", "bundle")
    assert status.reference_p50_ms == 2.0


def test_what_cold_caches_add_to_a_tiny_model_is_not_slow() -> None:
    bench = Bench(HERE)
    bench.variant = variant(HERE, p50=0.03)  # one inference after the other, at conversion
    assert bench.run(0.2, windows=6, count=300).state == "normal"
    assert bench.run(0.7, windows=6, count=300).state == "slow"
    assert bench.run(0.2, windows=6, count=300).state == "normal"


@pytest.mark.parametrize(
    ("measured_on", "fields"),
    [
        ("", {}),
        ("Another CPU, 64 cores, x86_64, null 1.0", {}),
        (HERE, {"engine": "another"}),
        (HERE, {"worker": WorkerStatus(1, 0, 0)}),
    ],
)
def test_else_it_is_what_the_model_took_here_at_first(
    measured_on: str, fields: dict[str, Any]
) -> None:
    bench = Bench(measured_on, **fields)
    assert bench.run(9.0).state == "gathering"  # the first window warms up
    assert bench.run(4.0).state == "gathering"
    status = bench.run(4.2)
    assert (status.state, status.reference) == ("normal", "here")
    assert status.reference_p50_ms == pytest.approx(4.2, rel=0.07)


def test_batches_are_not_held_against_single_inferences() -> None:
    bench = Bench(HERE)
    bench.statistics.batch(4, 1_000_000)
    assert bench.run(2.0).reference == ""


def test_batches_that_come_later_end_the_comparison_with_the_bundle() -> None:
    bench = Bench(HERE)
    assert bench.run(2.0).reference == "bundle"
    bench.statistics.batch(4, 1_000_000)
    assert bench.run(9.0, windows=2).state == "gathering"
    assert bench.run(9.0).reference == "here"


def test_it_is_slow_once_it_was_for_long_enough_and_back_likewise() -> None:
    bench = Bench(HERE)
    assert bench.run(2.0, windows=3).state == "normal"
    assert bench.run(5.0, windows=2).state == "normal"
    slow = bench.run(5.0)
    assert slow.state == "slow"
    assert slow.why.startswith("p50 4.98 ms, was 2;")
    assert bench.run(3.5, windows=5).state == "slow"  # not slow, but not as before either
    assert bench.run(2.0, windows=2).state == "slow"
    assert bench.run(2.0).state == "normal"


def test_one_slow_window_is_no_reason() -> None:
    bench = Bench(HERE)
    for _ in range(5):
        assert bench.run(9.0, windows=2).state != "slow"
        assert bench.run(2.0).state == "normal"


def test_a_few_slow_requests_are_no_reason() -> None:
    bench = Bench(HERE)
    for _ in range(6):
        bench.statistics.success(900_000_000)
        bench.statistics.success(900_000_000)
        assert bench.run(2.0).state == "normal"


def test_a_tail_that_stays_slow_is_one() -> None:
    bench = Bench(HERE)
    states = []
    for _ in range(5):
        for _ in range(20):
            bench.statistics.success(50_000_000)
        states.append(bench.run(2.0, count=400).state)
    assert states[-1] == "slow"
    assert bench.watch.status.p50_ms == pytest.approx(2.0, rel=0.07)


def test_few_requests_make_longer_windows() -> None:
    bench = Bench(HERE)
    assert bench.run(5.0, windows=4, count=10).count == 0
    assert bench.run(5.0, count=10).count == 50


def test_another_variant_begins_anew() -> None:
    bench = Bench(HERE)
    assert bench.run(5.0, windows=3).state == "slow"
    bench.fields["variant"] = "w"
    assert bench.run(5.0).state == "gathering"


def test_counters_that_begin_anew_are_no_window() -> None:
    bench = Bench(HERE)
    bench.run(2.0, windows=3)
    bench.statistics = Statistics()
    assert bench.look().state == "gathering"
    assert bench.run(2.0).state == "normal"


def test_what_may_be_why_is_said() -> None:
    bench = Bench(HERE, loads=1)
    other = Statistics()
    bench.others = [ModelStatus("other", "1", "ready", statistics=other.snapshot())]
    bench.look()
    bench.run(2.0)
    other.success(9_000_000_000)
    building = BuildProgress("engine", "hammering", 0.5)
    bench.others = [
        ModelStatus("other", "1", "ready", statistics=other.snapshot(), building=building)
    ]
    bench.strain = Strain("rate", "thermal", "cpu at 99 °C")
    bench.fields["loads"] = 4
    status = bench.run(3.0)
    assert status.hints == (
        "the device is held back (thermal: cpu at 99 °C)",
        "an engine of other is being built",
        "it was loaded again 3 times, for want of memory",
        "other models ran for 90 % of the time",
    )

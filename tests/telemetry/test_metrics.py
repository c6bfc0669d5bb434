"""From what a runtime says to plain metrics."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import edge
from edge.core.contracts import Placement
from edge.core.errors import EngineError
from edge.host import BuildProgress, ModelStatus, Statistics
from edge.host.costs import Cost
from edge.telemetry.metrics import ModelMeter, Transitions, device_info, model_metrics

SECOND_NS = 1_000_000_000
CPU = Placement("cpu", "cpu", {"CPUExecutionProvider": 1.0}, "int8")


def _status(statistics: Statistics | None = None, **fields: Any) -> ModelStatus:
    given = {
        "name": "digits",
        "version": "1",
        "state": "ready",
        "engine": "null",
        "variant": "null-int8",
        "precision": "int8",
        "choice": "best under the gate for host",
        "placement": CPU,
        "statistics": statistics.snapshot() if statistics else None,
    }
    return ModelStatus(**{**given, **fields})


def test_first_measurement_has_counts_and_no_rates() -> None:
    statistics = Statistics()
    statistics.success(2_000_000)
    row = ModelMeter().measure([_status(statistics)], 0)["models"][0]
    assert row["success_count"] == 1
    assert "success_per_s" not in row
    assert row["latency_ms"]["infer"]["p50"] == pytest.approx(2.0, rel=0.07)


def test_rates_and_percentiles_are_of_the_window() -> None:
    statistics, meter = Statistics(), ModelMeter()
    statistics.success(500_000_000)  # slow, and before the window
    meter.measure([_status(statistics)], 10 * SECOND_NS)
    for number in range(100):
        statistics.success(1_000_000 if number < 98 else 20_000_000, queue_ns=3_000_000)
    statistics.failure(1_000, EngineError("broken"))
    metrics = meter.measure([_status(statistics)], 15 * SECOND_NS)
    row = metrics["models"][0]
    assert metrics["window_s"] == 5.0
    assert (row["success_count"], row["failure_count"]) == (101, 1)
    assert (row["success_per_s"], row["failure_per_s"]) == (20.0, 0.2)
    latency = row["latency_ms"]
    assert set(latency) == {"queue", "infer"}
    assert latency["infer"]["p50"] == pytest.approx(1.0, rel=0.07)
    assert latency["infer"]["p99"] == pytest.approx(20.0, rel=0.07)
    assert latency["infer"]["mean"] == pytest.approx(1.38, rel=0.01)
    assert latency["queue"]["p90"] == pytest.approx(3.0, rel=0.07)


def test_stage_that_did_nothing_is_absent() -> None:
    statistics, meter = Statistics(), ModelMeter()
    statistics.success(1_000_000)
    meter.measure([_status(statistics)], 0)
    row = meter.measure([_status(statistics)], SECOND_NS)["models"][0]
    assert row["success_per_s"] == 0
    assert row["latency_ms"] == {}


def test_model_that_was_loaded_in_the_window_counts_from_zero() -> None:
    statistics, meter = Statistics(), ModelMeter()
    meter.measure([], 0)
    statistics.success(1_000_000)
    assert meter.measure([_status(statistics)], SECOND_NS)["models"][0]["success_per_s"] == 1.0


def test_versions_are_measured_apart() -> None:
    old, new, meter = Statistics(), Statistics(), ModelMeter()
    statuses = [_status(old), _status(new, version="2")]
    meter.measure(statuses, 0)
    new.success(1_000_000)
    rows = meter.measure([_status(old), _status(new, version="2")], SECOND_NS)["models"]
    assert [(row["version"], row["success_per_s"]) for row in rows] == [("1", 0.0), ("2", 1.0)]


def test_model_that_is_not_loaded_is_not_measured() -> None:
    assert ModelMeter().measure([_status(state="staged")], 0)["models"] == []


def test_model_says_what_runs_where_and_why() -> None:
    fallback = msgspec.structs.replace(CPU, is_fallback=True, reason="no npu here")
    metrics = model_metrics([_status(placement=fallback, is_fallback=True)])["digits"]
    assert metrics["state"] == "ready"
    assert metrics["variant"] == "null-int8"
    assert (metrics["engine"], metrics["precision"]) == ("null", "int8")
    assert (metrics["placement"], metrics["is_fallback"]) == ("cpu", True)
    assert metrics["why"] == "best under the gate for host; no npu here"
    assert "other_versions" not in metrics


def test_newest_version_speaks_for_the_model() -> None:
    failed = ModelStatus("digits", "2", "failed", "digest of model.onnx differs")
    metrics = model_metrics([_status(), failed])["digits"]
    assert (metrics["version"], metrics["state"]) == ("2", "failed")
    assert metrics["why"] == "digest of model.onnx differs"
    assert metrics["other_versions"] == {"1": "ready"}


def test_info_names_models_and_only_engines_in_use() -> None:
    info = device_info([_status(), _status(name="idle", engine="", placement=None)])
    assert info["edge_version"] == edge.__version__
    assert info["profile"] == "host"
    assert info["cpu_cores"] > 0
    assert info["models"] == [
        {"name": "digits", "version": "1"},
        {"name": "idle", "version": "1"},
    ]
    assert list(info["engines"]) == ["null"]
    assert info["engines"]["null"]["placements"] == ["cpu"]


def test_each_change_of_state_is_told_once() -> None:
    transitions = Transitions()
    staged = _status(state="staged")
    changes = [change.metrics() for change in transitions.look([staged])]
    assert [(change["from"], change["to"]) for change in changes] == [("absent", "staged")]
    assert transitions.look([staged]) == []
    failed = _status(state="failed", reason="no such engine", choice="", placement=None)
    assert transitions.look([failed])[0].metrics() == {
        "name": "digits",
        "version": "1",
        "from": "staged",
        "to": "failed",
        "why": "no such engine",
    }


def test_what_serves_is_told_when_it_changes_though_the_state_does_not() -> None:
    transitions = Transitions()
    interim = _status(is_fallback=True, choice="int8 is being built")
    transitions.look([interim])
    further = _status(is_fallback=True, choice="int8 is being built", reason="42 %")
    assert transitions.look([further]) == []
    (change,) = transitions.look([_status(choice="chosen at conversion", engine="tensorrt")])
    told = change.metrics()
    assert (told["from"], told["to"], told["why"]) == ("ready", "ready", "chosen at conversion")


def test_model_says_how_far_the_build_of_its_engine_is() -> None:
    building = BuildProgress("tensorrt-int8", "timing", 0.426)
    metrics = model_metrics([_status(building=building, reason=str(building))])["digits"]
    assert metrics["building"] == {"variant": "tensorrt-int8", "phase": "timing", "percent": 43}
    assert metrics["why"].startswith("tensorrt-int8 is being built: 43 % (timing)")
    assert "building" not in model_metrics([_status()])["digits"]


def test_memory_loads_and_evictions_are_told() -> None:
    status = _status(
        Statistics(), memory=Cost(5_000, 9_000, is_measured=True), loads=3, evictions={"room": 2}
    )
    (row,) = ModelMeter().measure([status], 0)["models"]
    told = {key: row[key] for key in ("memory_bytes", "loads", "evictions")}
    assert told == {"memory_bytes": 5_000, "loads": 3, "evictions": {"room": 2}}

"""From a model to an answer: converted for a Jetson here, built and served in a recorded one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.bundle import open_bundle
from edge.cli._main import main
from edge.conversion.cache import StageCache


@pytest.fixture(scope="module")
def made(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> edge.Conversion:
    """The sample for an Orin, in INT8 for TensorRT and for ONNX Runtime."""
    work = tmp_path_factory.mktemp("bundle")
    return edge.convert(
        digits / "digits.onnx",
        profile="jetson-orin-nano-8gb",
        calibration=digits / "calib",
        evaluation=digits / "eval",
        spec=digits / "model.toml",
        precision="int8",
        output=work / "digits.edge",
        cache=StageCache(work / "stages"),
    )


@pytest.fixture
def version() -> str:
    return "10.3"


def test_a_variant_for_tensorrt_is_judged_by_emulation_and_has_no_latency(made):
    (row,) = [row for row in made.report.variants if row.engine == "tensorrt" and row.chosen]
    assert row.metric.value >= made.report.source.metric.value - 1
    assert row.agreement > 0.98
    assert row.latency_ms is None
    assert any("emulated by onnxruntime" in note for note in row.notes)


def test_where_tensorrt_is_not_the_next_variant_runs_and_says_why(made):
    with edge.load(made.path) as model:
        assert model.variant.engine == "onnxruntime"
        assert model.is_fallback
        assert "tensorrt is not available" in model.choice


def test_on_the_device_the_engine_is_built_proven_by_goldens_and_served(enter, made, digits):
    world = enter()
    with edge.Runtime(made.path, fallback="deny") as runtime:
        model = runtime.model("digits")
        (status,) = runtime.status()
        assert (status.state, status.engine, status.is_fallback) == ("ready", "tensorrt", False)
        picture = next((digits / "eval" / "3").iterdir())
        assert model.classify(picture)[0].name == "3"
    assert world.count("build") == 1
    assert (world.memory, world.retained) == ({}, 0)


def test_edge_build_builds_ahead_and_finds_it_there_the_second_time(enter, made, capsys):
    world = enter()
    for state in ("built", "present"):
        assert main(["build", str(made.path), "--json"]) == 0
        ((variant,),) = (b["variants"] for b in json.loads(capsys.readouterr().out)["bundles"])
        assert (variant["engine"], variant["state"]) == ("tensorrt", state)
    assert world.count("build") == 1


def test_a_build_that_fails_leaves_the_other_variant_serving(enter, made):
    world = enter()
    world.refused_ops = {"QuantizeLinear"}
    with edge.Runtime(made.path) as runtime:
        model = runtime.model("digits")
        with open_bundle(made.path) as bundle:
            feeds, expected = bundle.golden(bundle.manifest.goldens[0])
        got = model.infer(feeds)
        (name,) = expected
        assert np.argmax(got[name]) == np.argmax(expected[name])
        assert model.is_fallback

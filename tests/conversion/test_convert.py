"""From a model and pictures to a measured bundle, and what bad input gets."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.bundle import open_bundle
from edge.conversion import pipeline
from edge.conversion.cache import StageCache
from edge.core.errors import EngineError, InputError, ModelError, SettingsError
from edge.host.health.looks import Looker
from edge.host.health.reference import read_reference


@pytest.fixture(scope="module")
def converted(digits, tmp_path_factory):
    """The sample, by its own pictures, for ONNX Runtime and OpenVINO."""
    output = tmp_path_factory.mktemp("bundle") / "digits.edge"
    stages: list[tuple[str, int, int]] = []
    conversion = edge.convert(
        digits / "digits.onnx",
        spec=digits / "model.toml",
        calibration=digits / "calib",
        evaluation=digits / "eval",
        output=output,
        cache=StageCache(output.parent / "cache"),
        progress=lambda *stage: stages.append(stage),
    )
    return conversion, stages


def test_bundle_holds_the_best_variant_of_each_engine(converted):
    conversion, _ = converted
    with open_bundle(conversion.path) as bundle:
        manifest = bundle.manifest
        assert bundle.labels == tuple("0123456789")
    assert {variant.engine for variant in manifest.variants} == {"onnxruntime", "openvino"}
    assert [variant.chosen for variant in manifest.variants] == [True, False]
    assert manifest.image is not None
    assert len(manifest.goldens) == 4


def test_every_variant_is_measured_against_the_source(converted):
    report = converted[0].report
    assert report.source.metric is not None
    assert report.source.metric.value == pytest.approx(100 * 449 / 450, abs=0.01)
    measured = {row.id: row for row in report.variants}
    assert {"onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8"} <= set(
        measured
    )
    for row in measured.values():
        assert row.metric is not None
        assert row.metric.value >= 98.5, row.id
        assert row.agreement is not None
        assert row.agreement >= 0.98, row.id
        assert row.latency_ms is not None
        assert row.measured_on
    assert measured["onnxruntime-fp32"].agreement == 1.0
    assert measured["onnxruntime-int8"].size_bytes < measured["onnxruntime-fp32"].size_bytes / 2


def test_report_in_the_bundle_is_the_one_that_was_returned(converted):
    conversion, _ = converted
    with open_bundle(conversion.path) as bundle:
        stored = json.loads(bundle.read("report/report.json"))
    assert stored["gate"]["met"] is True
    assert [row["id"] for row in stored["variants"]] == [r.id for r in conversion.report.variants]


def test_progress_reaches_the_end_of_every_stage(converted):
    last = {stage: (done, total) for stage, done, total in converted[1]}
    assert {"Checking", "Converting", "Measuring latency", "Measuring source"} <= set(last)
    assert all(done == total for done, total in last.values())


def test_goldens_pass_on_every_engine_of_the_bundle(converted):
    for engine in ("onnxruntime", "openvino"):
        with edge.load(converted[0], engine=engine) as model:
            results = model.verify_goldens()
            assert results
            assert all(result.passed for result in results)


def test_each_variant_has_the_distribution_of_what_it_saw_and_answered(converted):
    with open_bundle(converted[0]) as bundle:
        reference = read_reference(bundle, Looker.of(bundle.manifest))
    assert reference.samples == 450
    assert reference.outputs.keys() == {"source", *(v.id for v in bundle.manifest.variants)}
    for form in reference.outputs:
        known = reference.of(form)
        assert {"output.confidence", "output.margin", "output.class"} < known.keys()
        assert {each.total for each in known.values()} == {450}
    assert sum(reference.of("source")["output.class"].counts[:2]) == pytest.approx(90, abs=10)


def test_served_answer_is_the_measured_one(converted, digits):
    with edge.load(converted[0]) as model:
        right = sum(
            model.classify(picture, top=1)[0].name == picture.parent.name
            for picture in sorted((digits / "eval").glob("*/*.png"))
        )
    chosen = next(row for row in converted[0].report.variants if row.chosen)
    assert chosen.metric is not None
    assert 100 * right / 450 == pytest.approx(chosen.metric.value, abs=0.01)


def test_named_precision_that_misses_the_gate_is_packed_and_said(digits, tmp_path):
    conversion = edge.convert(
        digits / "digits.onnx",
        spec=digits / "model.toml",
        precision="fp32",
        engines=["onnxruntime"],
        evaluation=digits / "eval",
        max_drop=-1.0,  # asks for a gain, which FP32 can not give
        output=tmp_path / "out.edge",
    )
    assert not conversion.report.gate.met
    assert conversion.path.is_file()


def test_without_any_data_figures_say_that_they_are_from_noise(digits, tmp_path):
    conversion = edge.convert(
        digits / "digits.onnx",
        precision="fp32",
        engines=["onnxruntime"],
        output=tmp_path / "out.edge",
    )
    assert "noise" in conversion.report.data
    assert conversion.report.variants[0].agreement == 1.0
    with open_bundle(conversion) as bundle:
        assert not bundle.manifest.reference  # noise is no reference


def test_int8_without_labels_is_judged_by_agreement(digits, tmp_path):
    report = edge.convert(
        digits / "digits.onnx",
        spec=digits / "model.toml",
        precision="int8",
        engines=["onnxruntime"],
        calibration=digits / "calib",
        output=tmp_path / "out.edge",
    ).report
    assert report.gate.measure == "agreement"
    assert "optimistic" in report.data


def test_tensors_in_an_npz_serve_as_well(digits, tmp_path):
    generator = np.random.default_rng(7)
    np.savez(tmp_path / "calib.npz", image=generator.random((8, 1, 8, 8), dtype=np.float32))
    report = edge.convert(
        digits / "digits.onnx",
        precision="fp32",
        engines=["onnxruntime"],
        calibration=tmp_path / "calib.npz",
        output=tmp_path / "out.edge",
    ).report
    assert report.data.startswith("measured on 8 calibration samples")


def _convert(source: Path, tmp_path: Path, **changes):  # type: ignore[no-untyped-def]
    arguments = {
        "precision": "fp32",
        "output": tmp_path / "out" / "out.edge",
        "cache": StageCache(tmp_path / "cache"),
        **changes,
    }
    return edge.convert(source, **arguments)


@pytest.mark.parametrize("size", [0, 1, 100, 50_000])
def test_truncated_model_is_refused(digits, tmp_path, size):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((digits / "digits.onnx").read_bytes()[:size])
    with pytest.raises(ModelError):
        _convert(broken, tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_missing_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        _convert(tmp_path / "nowhere.onnx", tmp_path)


def test_dynamic_shapes_for_a_static_device_are_refused_with_the_flag_to_type(digits, tmp_path):
    with pytest.raises(ModelError, match="fixed shapes only") as caught:
        _convert(digits / "digits.onnx", tmp_path, profile="intel-core-ultra-2", precision="fp16")
    assert "--batch 1" in caught.value.hint


def test_npu_variant_is_measured_on_the_cpu_and_says_so(digits, tmp_path):
    report = _convert(
        digits / "digits.onnx", tmp_path, profile="intel-core-ultra-2", precision="fp16", batch=1
    ).report
    (row,) = report.variants
    assert any("no NPU here" in note for note in row.notes)


def test_empty_calibration_folder_is_refused(digits, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        _convert(
            digits / "digits.onnx",
            tmp_path,
            spec=digits / "model.toml",
            precision="int8",
            calibration=tmp_path / "empty",
        )


def test_missing_labels_file_is_refused(digits, tmp_path):
    spec = tmp_path / "model.toml"
    spec.write_text((digits / "model.toml").read_text())
    with pytest.raises(SettingsError, match=r"labels\.txt"):
        _convert(digits / "digits.onnx", tmp_path, spec=spec)


def test_full_disk_leaves_the_old_bundle_and_nothing_else(digits, tmp_path, monkeypatch):
    output = tmp_path / "out.edge"
    output.write_bytes(b"the old one")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))

    monkeypatch.setattr(pipeline, "pack", fail)
    with pytest.raises(InputError, match="No space left"):
        _convert(digits / "digits.onnx", tmp_path, output=output, engines=["onnxruntime"])
    assert output.read_bytes() == b"the old one"
    assert {path.name for path in tmp_path.iterdir()} == {"out.edge", "cache"}


def test_interrupt_leaves_nothing_behind(digits, tmp_path):
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "Measuring onnxruntime-fp32":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _convert(digits / "digits.onnx", tmp_path, engines=["onnxruntime"], progress=interrupt)
    assert not list((tmp_path / "out").iterdir())


def test_one_failing_converter_costs_its_own_variants_only(digits, tmp_path, monkeypatch):
    from edge.core import plugins

    def fail(*_: object) -> None:
        raise ModelError("this format can not hold it")

    monkeypatch.setattr(plugins.converter("openvino"), "convert", fail)
    report = _convert(digits / "digits.onnx", tmp_path).report
    assert [row.id for row in report.variants] == ["onnxruntime-fp32"]
    assert [(r.id, r.why) for r in report.tried] == [
        ("openvino-fp32", "this format can not hold it")
    ]


def test_variant_that_its_engine_refuses_is_not_measured_and_misses_the_gate(
    digits, tmp_path, monkeypatch
):
    from edge.core import plugins

    def fail(*_: object) -> None:
        raise EngineError("can not load it")

    monkeypatch.setattr(plugins.backend("openvino"), "open", fail)
    report = _convert(digits / "digits.onnx", tmp_path, engines=["openvino"]).report
    assert not report.gate.met
    assert report.variants[0].notes[-1] == "not measured: can not load it"


@pytest.mark.parametrize("changes", [{"name": "a b"}, {"version": "1.0+cuda"}])
def test_name_that_fits_no_topic_is_refused_before_any_work(digits, tmp_path, changes):
    with pytest.raises(InputError, match="can not name"):
        _convert(digits / "digits.onnx", tmp_path, **changes)
    assert not (tmp_path / "out").exists()

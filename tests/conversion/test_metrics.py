"""Metrics that users bring, and what happens when they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

import edge
from edge.conversion import fidelity
from edge.conversion.cache import StageCache
from edge.conversion.gate import bound_for
from edge.conversion.measurement import Scores
from edge.conversion.metrics import MOST, UserMetric, load_metric
from edge.conversion.workbench import Judged
from edge.core.errors import InputError, SettingsError
from edge.core.manifest import Metric

ONE = ([{"y": np.ones(3)}], [{"y": np.ones(3)}], [{"x": np.ones(3)}], [None])

MODULE = """
import helper_of_metrics

def share(outputs, references, feeds, labels):
    best = [[next(iter(o.values())).argmax() for o in each] for each in (outputs, references)]
    same = [a == b for a, b in zip(*best)]
    return helper_of_metrics.percent(sum(same) / len(same))

def late(outputs, references, feeds, labels):
    import helper_of_metrics as again
    return again.percent(0.5)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metric_module.py").write_text(MODULE)
    (tmp_path / "helper_of_metrics.py").write_text("def percent(x): return 100 * x\n")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda *_: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda *_: None, "gave None for 1 samples, which is no number"),
        (lambda *_: math.nan, "gave nan for 1 samples"),
        (lambda *_: "many", "gave 'many'"),
    ],
)
def test_a_metric_that_fails_is_named_with_the_reason(given, said):
    with pytest.raises(InputError, match="metric mine") as caught:
        UserMetric(given, "mine", "").value(*ONE)
    assert said in str(caught.value)
    assert caught.value.hint


def test_infinite_values_are_written_as_numbers():
    assert UserMetric(lambda *_: math.inf, "mine", "").value(*ONE) == Metric("mine", MOST)
    assert UserMetric(lambda *_: -math.inf, "mine", "").value(*ONE) == Metric("mine", -MOST)


def test_a_metric_may_import_what_lies_beside_it(folder):
    assert load_metric("metric_module:late", folder).value(*ONE) == Metric("late", 50.0)


def test_modules_of_one_name_in_two_folders_are_two(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "metric_module.py").write_text("def late(*_): return 7\n")
    assert load_metric("metric_module:late", folder).value(*ONE).value == 50.0
    assert load_metric("metric_module:late", other).value(*ONE).value == 7.0


def test_another_text_beside_the_metric_is_another_digest(folder):
    before = load_metric("metric_module:share", folder).digest
    (folder / "helper_of_metrics.py").write_text("def percent(x): return x\n")
    assert load_metric("metric_module:share", folder).digest != before


@pytest.mark.parametrize(
    "text", ["nowhere:f", "metric_module:nothing", "metric_module", "os:path", "broken:f"]
)
def test_what_can_not_be_imported_is_said(folder, text):
    (folder / "broken.py").write_text("1 / 0\n")
    with pytest.raises(SettingsError, match="metric"):
        load_metric(text, folder)


def test_a_value_that_must_be_reached_replaces_the_drop():
    bound = bound_for(Metric("psnr", MOST), None, at_least=45.0)
    high, low = (Judged(Scores(Metric("psnr", value), 1.0)) for value in (45.5, 44.5))
    assert bound.loss(high) <= bound.points < bound.loss(low)
    assert bound.lost(bound.loss(low)) == "reaches 44.50 of psnr"
    assert bound.allowed == "at least 45"


def test_agreement_can_be_asked_for_in_percent():
    bound = bound_for(None, None, at_least=99.0)
    assert bound.loss(Judged(Scores(None, 0.995))) <= bound.points
    assert bound.loss(Judged(Scores(None, 0.985))) > bound.points


def test_psnr_and_cosine_by_hand():
    want = [{"y": np.array([0.0, 1.0, 2.0, 3.0], np.float32)}]
    got = [{"y": np.array([0.3, 1.0, 2.0, 3.0], np.float32)}]
    assert fidelity.psnr(got, want, [], []) == pytest.approx(10 * math.log10(9 / (0.09 / 4)))
    assert fidelity.psnr(want, want, [], []) == math.inf
    assert fidelity.cosine(want, want, [], []) == pytest.approx(1.0)
    orthogonal = [{"y": np.array([1.0, 0.0], np.float32)}], [{"y": np.array([0.0, 1], np.float32)}]
    assert fidelity.cosine(*orthogonal, [], []) == pytest.approx(0.0)


def test_a_conversion_reports_the_metric_by_its_name(digits, folder):
    (folder / "model.toml").write_text('task = "tensors"\nmetric = "metric_module:share"\n')
    np.savez(folder / "eval.npz", image=np.random.default_rng(0).random((8, 1, 8, 8), np.float32))
    report = edge.convert(
        digits / "digits.onnx",
        spec=folder / "model.toml",
        evaluation=folder / "eval.npz",
        precision="fp32",
        engines=["onnxruntime"],
        at_least=99.0,
        output=folder / "out.edge",
        cache=StageCache(folder / "cache"),
    ).report
    assert report.variants[0].metric == Metric("share", 100.0)
    assert report.gate.met
    assert "at least 99" in report.gate.why

"""Warnings name what differs between samples to calibrate on and samples to evaluate on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edge
from edge.conversion.data_checks import check_data, check_labels, check_source
from edge.conversion.datasets import open_dataset
from edge.conversion.samples import Dataset
from edge.core.errors import InputError
from edge.core.manifest import Metric
from edge.core.spec import ModelSpec
from edge.core.tensor import TensorSpec

INPUT = (TensorSpec("x", "float32", ("n", 3, 8, 8)),)
SCORES = (TensorSpec("y", "float32", ("n", 10)),)


def photographs(seed: int, count: int = 40) -> np.ndarray:
    """In 0..1, red above blue as in most photographs, some of it black and some white."""
    generator = np.random.default_rng(seed)
    light = generator.normal(0.48, 0.15, (count, 1, 1, 1))
    warmth = generator.normal(0.07, 0.05, (count, 1, 1, 1)) * np.array([1, 0, -1]).reshape(3, 1, 1)
    pixels = generator.normal(0.0, 0.25, (count, 3, 8, 8))
    return np.clip(light + warmth + pixels, 0.0, 1.0)


def dataset(folder: Path, name: str, values: np.ndarray, **others: np.ndarray) -> Dataset:
    path = folder / f"{name}.npz"
    np.savez(path, x=values.astype(np.float32), **others)
    return open_dataset(path, "eval", ModelSpec(), INPUT)


def warnings(folder: Path, calibration: np.ndarray, evaluation: np.ndarray) -> list[str]:
    pair = dataset(folder, "calib", calibration), dataset(folder, "eval", evaluation)
    return [finding.message for finding in check_data(*pair)]


def test_samples_of_one_kind_raise_no_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, photographs(0), photographs(1)) == []


def test_another_range_is_named_with_both_ranges(tmp_path: Path) -> None:
    (message,) = warnings(tmp_path, 255 * photographs(0), photographs(1))
    assert message == (
        "input 'x' goes from 0 to 255 in calibration and from 0 to 1 in evaluation: another range"
    )
    (message,) = warnings(tmp_path, 2 * photographs(0) - 1, photographs(1))
    assert "from -1 to 1 in calibration" in message


def test_swapped_colours_are_named_with_their_means(tmp_path: Path) -> None:
    (message,) = warnings(tmp_path, photographs(0)[:, ::-1], photographs(1))
    assert message.endswith("as if the colours were in another order")
    assert "means of 'x' are 0.386, 0.465, 0.552 in calibration" in message


def test_shifted_means_are_another_scale(tmp_path: Path) -> None:
    sound = (TensorSpec("x", "float32", ("n", 64)),)
    generator = np.random.default_rng(0)
    pair = []
    for name, shift in (("calib", 2.0), ("eval", 0.0)):
        values = generator.normal(shift, 1.0, (40, 64)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=values)
        pair.append(open_dataset(tmp_path / f"{name}.npz", "eval", ModelSpec(), sound))
    (finding,) = check_data(*pair)
    assert "another scale" in finding.message


def test_few_equal_and_constant_samples_are_counted(tmp_path: Path) -> None:
    values = photographs(0, 10)
    values[3] = values[4]
    values[5] = 0.5
    calibration = dataset(tmp_path, "calib", values)
    messages = [finding.message for finding in check_data(calibration, None)]
    assert messages[0].startswith("10 samples to calibrate on")
    assert messages[1] == "1 of 10 calibration samples are copies of others"
    assert messages[2].startswith("1 of 10 calibration samples have one value all over")
    assert messages[2].endswith("sample 5")


def test_samples_that_are_in_both_are_counted(tmp_path: Path) -> None:
    shared = np.concatenate([photographs(1), photographs(0)[:3]])
    (message,) = warnings(tmp_path, photographs(0), shared)
    assert message == "3 of 43 evaluation samples are also calibrated on"


def test_labels_beyond_the_classes_are_refused_and_equal_ones_noted(tmp_path: Path) -> None:
    labels = np.full(40, 10)
    evaluation = dataset(tmp_path, "eval", photographs(0), labels=labels)
    with pytest.raises(InputError, match="go up to 10, the model answers 10 classes"):
        check_labels(evaluation, SCORES)
    check_labels(evaluation, (TensorSpec("y", "float32", ("n", "classes")),))
    (finding,) = check_data(None, evaluation)
    assert finding.message == "all 40 evaluation samples have the label 10"


@pytest.mark.parametrize(
    ("metric", "is_guess"),
    [
        (Metric("top1", 12.5), True),
        (Metric("top1", 40.0), False),
        (Metric("mAP", 0.2), True),
        (Metric("mAP", 30.0), False),
        (Metric("mIoU", 3.0), True),
        (Metric("psnr", -3.0), False),
        (None, False),
    ],
)
def test_source_that_only_guesses_is_noted(
    tmp_path: Path, metric: Metric | None, is_guess: bool
) -> None:
    found = check_source(metric, dataset(tmp_path, "eval", photographs(0)), SCORES)
    assert [f.message.split(":")[-1].strip() for f in found] == (
        ["labels or preprocessing do not fit"] if is_guess else []
    )


def test_findings_about_data_are_in_the_report(digits: Path, tmp_path: Path) -> None:
    conversion = edge.convert(
        digits / "digits.onnx",
        spec=digits / "model.toml",
        precision="fp32",
        engines=["onnxruntime"],
        calibration=digits / "eval",
        evaluation=digits / "eval",
        output=tmp_path / "out.edge",
    )
    messages = [finding.message for finding in conversion.report.findings]
    assert any("evaluation samples are also calibrated on" in message for message in messages)


def test_batch_above_one_is_refused_with_data(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes 8 at once") as caught:
        edge.convert(
            digits / "digits.onnx",
            spec=digits / "model.toml",
            evaluation=digits / "eval",
            batch=8,
            output=tmp_path / "out.edge",
        )
    assert "--batch" in caught.value.hint
    assert not list(tmp_path.iterdir())

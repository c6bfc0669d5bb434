"""The sample model is what its README says it is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge.core.spec import load_spec
from edge.vision.pipeline import ImagePipeline

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn brings the scans")
cv2 = pytest.importorskip("cv2", reason="OpenCV reads the pictures")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_train", DIGITS / "train.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scans() -> tuple[np.ndarray, np.ndarray]:
    values, labels = datasets.load_digits(return_X_y=True)
    return values.reshape(-1, 8, 8), labels


def indices(folder: str) -> list[int]:
    return sorted(int(path.stem) for path in (DIGITS / folder).rglob("*.png"))


def test_pictures_are_the_scans(script: ModuleType, scans: tuple[np.ndarray, np.ndarray]) -> None:
    for path in DIGITS.rglob("*.png"):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        scan = scans[0][int(path.stem)]
        assert np.array_equal(picture / script.GRAY_PER_STEP, scan), path


def test_held_out_pictures_lie_in_the_folder_of_their_digit(
    scans: tuple[np.ndarray, np.ndarray],
) -> None:
    for path in (DIGITS / "eval").rglob("*.png"):
        assert path.parent.name == str(scans[1][int(path.stem)]), path


def test_held_out_pictures_were_seen_neither_in_training_nor_in_calibration(
    script: ModuleType, scans: tuple[np.ndarray, np.ndarray]
) -> None:
    train, calib, held_out = script.split(scans[1])
    assert indices("eval") == sorted(held_out)
    assert indices("calib") == sorted(calib)
    assert set(calib) <= set(train)
    assert not set(held_out) & set(train)
    assert len(train) + len(held_out) == len(scans[1])


def test_declared_pipeline_gives_the_training_values(
    script: ModuleType, scans: tuple[np.ndarray, np.ndarray]
) -> None:
    image = load_spec(DIGITS / "model.toml").image
    assert image
    prepare = ImagePipeline(image)
    for path in (DIGITS / "eval").rglob("*.png"):
        trained_on = script.tensors(script.pictures(scans[0][[int(path.stem)]]))
        assert np.array_equal(prepare(path), trained_on), path


def test_declared_labels_are_the_digits() -> None:
    labels = Path(load_spec(DIGITS / "model.toml").labels).read_text().split()
    assert labels == sorted(path.name for path in (DIGITS / "eval").iterdir())


def test_accuracy_is_the_one_in_the_readme() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        str(DIGITS / "digits.onnx"), providers=["CPUExecutionProvider"]
    )
    paths = sorted((DIGITS / "eval").rglob("*.png"))
    gray = np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths])
    (logits,) = session.run(["logits"], {"image": gray[:, None].astype(np.float32) / 256})
    right = int((logits.argmax(axis=1) == [int(path.parent.name) for path in paths]).sum())
    readme = (DIGITS / "README.md").read_text()
    assert f"**{right / len(paths):.2%}**".replace("%", " %") in readme
    assert f"{right} of {len(paths)};" in readme


def test_model_is_what_the_oldest_device_takes() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(DIGITS / "digits.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [entry.version for entry in model.opset_import]) == (8, [17])
    assert (DIGITS / "digits.onnx").stat().st_size < 300_000


@pytest.mark.slow
def test_training_again_gives_the_same_model(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs PyTorch, which the lock leaves out")
    command = [sys.executable, str(DIGITS / "train.py"), "--into", str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    accuracy = float(printed.split("held-out accuracy: ")[1].split(" %")[0])
    assert abs(accuracy - 99.78) <= 0.45  # two scans: other processors round sums otherwise
    assert len(list(tmp_path.rglob("*.png"))) == len(list(DIGITS.rglob("*.png")))

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import read_tensors
from edge.cli import run
from edge.cli._main import main
from edge.vision import Box, Label, Mask

PackDigits = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(pack_digits: PackDigits) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    return pack_digits("onnxruntime")


@pytest.fixture
def zeros(pack_digits: PackDigits) -> Path:
    return pack_digits("null")


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    path = tmp_path / "in.npz"
    np.savez(path, image=np.zeros((3, 1, 8, 8), np.float32))
    return path


def _json(capsys: Capture, *arguments: object) -> Any:
    assert main(["run", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_pictures_are_answered_right(bundle: Path, digits: Path, capsys: Capture) -> None:
    pictures = [sorted((digits / "eval" / str(digit)).iterdir())[0] for digit in range(10)]
    said = _json(capsys, bundle, *pictures)
    assert [answer["input"] for answer in said["answers"]] == [str(path) for path in pictures]
    best = [answer["prediction"][0]["name"] for answer in said["answers"]]
    assert best == [str(digit) for digit in range(10)]
    assert said["variant"] == "onnxruntime-fp32"
    assert said["placement"]["actual"] == "cpu"


def test_labels_are_a_table_with_the_best_first(
    bundle: Path, digits: Path, capsys: Capture
) -> None:
    picture = sorted((digits / "eval" / "7").iterdir())[0]
    assert main(["run", str(bundle), str(picture), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if "%" in line]
    assert len(rows) == 2
    assert rows[0][2] == "7"
    assert float(rows[0][0]) > float(rows[1][0])


def test_tensors_are_answered_with_figures_of_each_output(
    zeros: Path, tensors: Path, capsys: Capture
) -> None:
    said = _json(capsys, zeros, tensors)
    assert said["answers"] == [
        {
            "input": str(tensors),
            "outputs": [
                {
                    "name": "logits",
                    "dtype": "float32",
                    "shape": [3, 10],
                    "min": 0.0,
                    "mean": 0.0,
                    "max": 0.0,
                }
            ],
        }
    ]


def test_tensors_are_a_table_of_80_columns(zeros: Path, tensors: Path, capsys: Capture) -> None:
    assert main(["run", str(zeros), str(tensors)]) == 0
    text = capsys.readouterr().out
    # The input's own path may be longer than any terminal.
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 80
    assert "logits  float32  3 × 10" in text


def test_figures_leave_out_what_text_has_not() -> None:
    facts = run._figures_of("words", np.array(["a", "b"], dtype=object))
    assert facts == run.OutputFacts("words", "string", (2,))
    assert run._figures_of("none", np.zeros((0, 4), np.float32)).max is None


def test_raw_outputs_are_saved(bundle: Path, digits: Path, tmp_path: Path, capsys: Capture) -> None:
    picture = sorted((digits / "eval" / "4").iterdir())[0]
    saved = tmp_path / "out.npz"
    assert main(["run", str(bundle), str(picture), "--output", str(saved)]) == 0
    logits = read_tensors(saved)["logits"]
    assert logits.shape == (1, 10)
    assert int(logits.argmax()) == 4


def test_output_takes_one_input(zeros: Path, tensors: Path, capsys: Capture) -> None:
    code = main(["run", str(zeros), str(tensors), str(tensors), "--output", "out.npz"])
    assert code == 2
    assert "--output takes the outputs of one INPUT, 2 are given" in capsys.readouterr().err
    assert not Path("out.npz").exists()


def test_the_variant_that_is_named_runs(
    pack_digits: PackDigits, tensors: Path, capsys: Capture
) -> None:
    path = pack_digits("onnxruntime", "null")
    assert _json(capsys, path, tensors, "--variant", "null-fp32")["engine"] == "null"
    assert _json(capsys, path, tensors, "--engine", "null")["variant"] == "null-fp32"


def test_a_picture_for_a_model_of_tensors_exits_2(
    pack_digits: PackDigits, digits: Path, capsys: Capture
) -> None:
    path = pack_digits("null", image=None, task="tensors")
    picture = sorted((digits / "eval" / "1").iterdir())[0]
    assert main(["run", str(path), str(picture)]) == 2
    assert "does not say how a picture becomes its tensors" in capsys.readouterr().err


def test_a_picture_whose_outputs_mean_nothing_is_answered_with_figures(
    pack_digits: PackDigits, digits: Path, capsys: Capture
) -> None:
    pytest.importorskip("cv2")
    path = pack_digits("null", task="tensors")
    picture = sorted((digits / "eval" / "1").iterdir())[0]
    (answer,) = _json(capsys, path, picture)["answers"]
    assert [output["name"] for output in answer["outputs"]] == ["logits"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "input 'image' is missing"),
        ({"image": np.zeros((1, 1, 8, 9), np.float32)}, "must have shape (batch, 1, 8, 8)"),
        ({"image": np.zeros((1, 1, 8, 8))}, "must be float32, got float64"),
        (
            {"image": np.zeros((1, 1, 8, 8), np.float32), "more": np.zeros(1)},
            "unknown input 'more'",
        ),
    ],
)
def test_tensors_that_do_not_fit_exit_2(
    arrays: dict[str, np.ndarray], message: str, zeros: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    assert main(["run", str(zeros), str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.npz", "none.png", "garbage.npz", "garbage.png"])
def test_an_unreadable_input_exits_2_and_names_it(
    name: str, bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / name
    if name.startswith("garbage"):
        path.write_bytes(b"garbage" * 100)
    assert main(["run", str(bundle), str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_top_must_be_above_0(zeros: Path, tensors: Path, capsys: Capture) -> None:
    assert main(["run", str(zeros), str(tensors), "--top", "0"]) == 2
    assert "'0' is not a whole number above 0" in capsys.readouterr().err


def test_boxes_and_regions_are_tables() -> None:
    box = Box(x0=1.4, y0=2, x1=30, y1=40, index=0, name="cat", score=0.914)
    found, columns, rows, _ = run._table(run.Answer("a.jpg", (box,)), "detection")
    assert (found, columns[:2], rows) == (
        "1 object",
        ["score", "label"],
        [("91.4 %", "cat", "1", "2", "30", "40")],
    )
    mask = Mask.from_array(np.array([[0, 0], [0, 15]]), [str(i) for i in range(21)])
    found, _, rows, _ = run._table(run.Answer("a.jpg", mask), "segmentation")
    assert found == "2×2"
    assert [row[:2] for row in rows] == [("75.0 %", "0"), ("25.0 %", "15")]
    assert len(rows[0][2]) == 18


def test_a_prediction_of_none_of_the_labels_is_still_a_table() -> None:
    found, _, rows, _ = run._table(run.Answer("a.jpg", ()), "detection")
    assert (found, rows) == ("0 objects", [])
    _, _, rows, _ = run._table(run.Answer("a.jpg", (Label(3, "3", 1.0),)), "classification")
    assert rows == [("100.0 %", "3", "━" * 24)]

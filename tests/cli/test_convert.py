"""``edge convert``: what a person sees, and what a script reads."""

from __future__ import annotations

import json

import pytest

from edge.cli._main import main


@pytest.fixture
def arguments(digits, tmp_path):
    return [
        *("convert", str(digits / "digits.onnx"), "--spec", str(digits / "model.toml")),
        *("--precision", "fp32", "--engine", "onnxruntime"),
        *("--eval", str(digits / "eval"), "-o", str(tmp_path / "out.edge")),
    ]


def test_table_fits_80_columns_and_ends_with_the_bundle(arguments, capsys, tmp_path):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines() if "→" not in line)
    assert "onnxruntime-fp32" in printed
    assert "99.78" in printed
    assert str(tmp_path / "out.edge") in printed.replace("\n", "")


def test_missed_gate_is_exit_code_1_and_the_bundle_is_there(arguments, capsys, tmp_path):
    assert main([*arguments, "--max-drop", "-1"]) == 1
    assert "gate missed" in capsys.readouterr().out
    assert (tmp_path / "out.edge").is_file()


def test_json_is_the_report_and_the_path(arguments, capsys, tmp_path):
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bundle"] == str(tmp_path / "out.edge")
    assert report["source"]["metric"] == {"name": "top1", "value": pytest.approx(99.7778, abs=1e-3)}
    assert report["variants"][0]["measured_on"]
    assert report["gate"]["met"] is True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--profile", "jetson-orin-nano"], "did you mean jetson-orin-nano-"),
        (["--precision", "int8"], "--calib"),
        (["--precision", "int3"], "host does not run int3"),
        (["--shape", "image=8"], "image"),
        (["--spec", "nowhere.toml"], "nowhere.toml"),
        (["--eval", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_exit_code_2_with_a_word_on_what_to_do(arguments, capsys, change, said):
    assert main([*arguments, *change]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert said in captured.err


def test_malformed_shape_is_wrong_usage(arguments, capsys):
    assert main([*arguments, "--shape", "image"]) == 2
    assert "is not like images=1x3x224x224" in capsys.readouterr().err


def test_several_profiles_give_a_bundle_each(arguments, capsys, tmp_path):
    assert main([*arguments, "--profile", "host", "--profile", "generic-arm64", "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["profile"] for report in reports] == ["host", "generic-arm64"]
    assert [report["bundle"] for report in reports] == [
        str(tmp_path / f"out-{profile}.edge") for profile in ("host", "generic-arm64")
    ]

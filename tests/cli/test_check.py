"""``edge check``: what a person sees, and what a script reads."""

from __future__ import annotations

import json

import pytest

from edge.cli._main import main


@pytest.fixture
def model(digits) -> str:  # type: ignore[no-untyped-def]
    return str(digits / "digits.onnx")


def test_it_names_the_flag_that_a_static_device_needs(model, capsys):
    assert main(["check", model, "--profile", "intel-core-ultra-2"]) == 2
    assert "--batch 1" in capsys.readouterr().out
    assert main(["check", model, "--profile", "intel-core-ultra-2", "--batch", "1"]) == 0


def test_json_is_the_whole_report(model, capsys):
    assert main(["check", model, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "digits.onnx"
    assert report["costs"]["flops"] > 0
    (host,) = report["profiles"]
    assert [engine["engine"] for engine in host["engines"]] == ["openvino", "onnxruntime"]
    assert host["memory_bytes"] > 0
    assert {e["latencies"][0]["basis"] for e in host["estimates"]} == {"unknown"}


def test_several_devices_take_one_call_and_one_that_takes_the_model_is_enough(model, capsys):
    names = ["intel-core-ultra-2", "jetson-orin-nano-8gb", "raspberry-pi-5"]
    arguments = [argument for name in names for argument in ("--profile", name)]
    assert main(["check", model, *arguments]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.startswith(tuple(names))] == (
        names
    )


def test_it_fits_80_columns_and_marks_what_is_estimated(model, capsys):
    assert main(["check", model, "--profile", "jetson-agx-orin-64gb"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = {line.split()[0]: line for line in lines if line}
    assert "gpu" in rows["int8"]
    assert "≥" in rows["fp32"]  # a Jetson's profile has no peak rate for it
    assert any("estimated, not measured" in line for line in lines)
    assert any("fp32: the profile has no peak rate" in line for line in lines)


def test_latency_is_unknown_where_the_profile_knows_no_rate(model, capsys):
    assert main(["check", model, "--profile", "generic-arm64"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fp")]
    assert rows
    assert all(row.endswith("unknown") for row in rows)


def test_a_profile_that_does_not_exist_is_wrong_usage(model, capsys):
    assert main(["check", model, "--profile", "host", "--profile", "jetson-orin-nano"]) == 2
    assert "did you mean jetson-orin-nano-" in capsys.readouterr().err

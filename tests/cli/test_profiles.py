from __future__ import annotations

import json

import pytest

from edge.cli._main import main
from edge.core.profile import load_profile, profile_names


def test_list_has_every_device_on_one_line_of_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["profiles"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith(" ")]
    later = " ".join(lines).partition("With later software: ")[2].split(", ")
    assert sorted([*listed, *map(str.strip, later)]) == profile_names()


def test_list_shows_memory_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    main(["profiles"])
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "jetson-orin-nx-16gb 16 GiB 50 gpu dla fp32 fp16 int8" in rows
    assert "jetson-agx-thor 128 GiB 517 fp8 gpu fp32 fp16 fp8 int8" in rows


@pytest.mark.parametrize("name", profile_names())
def test_one_device_is_shown_with_whole_sources(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profiles", name]) == 0
    printed = capsys.readouterr().out
    profile = load_profile(name)
    assert profile.device.title in printed
    assert f"onnx.opset {profile.onnx.opset}" in " ".join(printed.split())
    shown = set(printed.split())
    for source in profile.sources.values():
        assert set(source.split()) <= shown


def test_json_of_one_device_is_its_profile(capsys: pytest.CaptureFixture[str]) -> None:
    main(["profiles", "jetson-agx-thor", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "jetson-agx-thor"
    assert shown["compute"]["peak_tops"] == {"gpu": {"fp4": 1035, "fp8": 517, "fp16": 258}}


def test_json_of_the_list_holds_all(capsys: pytest.CaptureFixture[str]) -> None:
    main(["profiles", "--json"])
    assert [p["name"] for p in json.loads(capsys.readouterr().out)] == profile_names()


def test_a_typo_ends_with_2_and_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "jetson-orin-nano-8g"]) == 2
    complaint = capsys.readouterr().err
    assert "no device profile named 'jetson-orin-nano-8g'" in complaint
    assert "did you mean jetson-orin-nano-8gb" in complaint

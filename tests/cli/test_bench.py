from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.cli._main import main

PackDigits = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
SHORT = ("--seconds", "0.05")


def _json(capsys: Capture, *arguments: object) -> Any:
    assert main(["bench", *map(str, arguments), *SHORT, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_best_variant_is_measured(pack_digits: PackDigits, capsys: Capture) -> None:
    said = _json(capsys, pack_digits("null"))
    (row,) = said["variants"]
    assert row["id"] == "null-fp32"
    assert row["placement"]["actual"] == "cpu"
    figures = row["figures"]
    assert figures["count"] > 0
    assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"]
    assert said["data"] == "noise"
    assert said["callers"] == 1


def test_all_variants_are_measured_side_by_side(pack_digits: PackDigits, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    said = _json(capsys, pack_digits("null", "onnxruntime"), "--all", "--threads", 1)
    figures = {row["engine"]: row["figures"] for row in said["variants"]}
    assert set(figures) == {"null", "onnxruntime"}
    assert all(found["count"] > 0 for found in figures.values())
    assert said["threads"] == 1


def test_several_callers_infer_at_once(pack_digits: PackDigits, capsys: Capture) -> None:
    said = _json(capsys, pack_digits("null"), "--callers", 3)
    (row,) = said["variants"]
    figures = row["figures"]
    assert said["callers"] == 3
    assert figures["count"] >= 3
    # One caller is busy for as long as it takes, three for up to thrice: the slowest ends it.
    busy = figures["mean"] / 1000 * figures["per_second"]
    assert 1 < busy < 3 * 1.01


def test_a_variant_that_can_not_run_here_is_listed_with_why(
    pack_digits: PackDigits, capsys: Capture
) -> None:
    path = pack_digits("absent", "null")
    said = _json(capsys, path, "--all")
    absent = next(row for row in said["variants"] if row["engine"] == "absent")
    assert "figures" not in absent
    assert "no engine named 'absent'" in absent["reason"]
    assert main(["bench", str(path), "--all", *SHORT]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "not measured" in text


def test_none_that_can_run_exits_3(pack_digits: PackDigits, capsys: Capture) -> None:
    assert main(["bench", str(pack_digits("absent")), "--all", *SHORT]) == 3
    assert "no variant runs here: absent-fp32" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--variant", "nope"), ("--engine", "openvino")])
def test_a_variant_that_is_not_there_exits_2(
    option: tuple[str, str], pack_digits: PackDigits, capsys: Capture
) -> None:
    assert main(["bench", str(pack_digits("null")), "--all", *option, *SHORT]) == 2
    assert "null-fp32" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_must_be_above_0(seconds: str, pack_digits: PackDigits, capsys: Capture) -> None:
    assert main(["bench", str(pack_digits("null")), "--seconds", seconds]) == 2
    assert "is not a number of seconds above 0" in capsys.readouterr().err

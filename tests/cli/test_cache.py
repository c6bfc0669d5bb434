"""``edge cache``: what is kept, and that it goes."""

from __future__ import annotations

import json

import pytest

from edge.cli._main import main


@pytest.fixture
def converted(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ["convert", str(digits / "digits.onnx"), "--precision", "fp32"]
    assert main([*arguments, "-o", str(tmp_path / "out.edge")]) == 0


def test_it_lists_stages_and_clears_them(converted, capsys, tmp_path):
    capsys.readouterr()
    assert main(["cache"]) == 0
    assert "prepare" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert "cleared" in capsys.readouterr().out
    assert main(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"] == []


def test_no_cache_keeps_nothing(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ["convert", str(digits / "digits.onnx"), "--precision", "fp32", "--no-cache"]
    assert main([*arguments, "-o", str(tmp_path / "out.edge")]) == 0
    assert not (tmp_path / "cache" / "edge" / "conversion").exists()

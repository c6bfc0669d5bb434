from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from edge.core.errors import MissingDependencyError
from edge.core.lazy import require


def test_what_is_installed_is_returned() -> None:
    assert require("json", extra="convert") is json


def test_what_is_missing_comes_with_the_command_that_brings_it() -> None:
    with pytest.raises(MissingDependencyError, match="no_such_sdk") as caught:
        require("no_such_sdk.part", extra="openvino")
    assert caught.value.hint == "pip install 'edge-runtime[openvino]'"
    assert isinstance(caught.value.__cause__, ImportError)


def test_what_is_installed_and_broken_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_sdk.py").write_text("raise ImportError('libcuda.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"libcuda\.so\.1: cannot open"):
        require("broken_sdk", extra="tensorrt")
    assert "broken_sdk" not in sys.modules


def test_onnxruntime_is_told_to_report_nothing_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import os\nheard = os.environ.get('ORT_DISABLE_TELEMETRY')\n"
    (tmp_path / "onnxruntime.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "")  # what is set here goes with the test
    del os.environ["ORT_DISABLE_TELEMETRY"]
    assert require("onnxruntime", extra="onnxruntime").heard == "1"
    monkeypatch.delitem(sys.modules, "onnxruntime")

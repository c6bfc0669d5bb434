"""Machines to read: copies of the trees, and NVIDIA's library as a test wants it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import LONG_S

from edge.sensors._rounds import Rounds

FAKES = Path(__file__).parent.parent / "fakes"

Compile = Callable[..., Path]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sensor that answers is not taken for one that hangs because the machine is slow."""
    monkeypatch.setattr(Rounds.__init__, "__defaults__", (LONG_S,))


@pytest.fixture(scope="session")
def compiled_nvml(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles the fake library, with macros if a test wants some."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def build(*macros: str) -> Path:
        library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
        source = FAKES / "nvml" / "fake_nvml.c"
        flags = [f"-D{macro}" for macro in macros]
        subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", library, source], check=True)
        return library

    built: dict[tuple[str, ...], Path] = {}

    def library(*macros: str) -> Path:
        if macros not in built:
            built[macros] = build(*macros)
        return built[macros]

    return library

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.core import plugins
from edge.core.errors import NotFoundError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands in for ``runtimes``: a package that is not on disk before the test."""
    monkeypatch.setattr(plugins, "folders", lambda package: (tmp_path,))
    plugins._load.cache_clear()
    yield tmp_path
    plugins._load.cache_clear()


def test_files_are_the_list(package: Path) -> None:
    for name in ("b.py", "a.py", "_private.py", "__init__.py", "notes.toml"):
        (package / name).touch()
    assert plugins.stems("runtimes") == ["a", "b"]
    assert plugins.stems("runtimes", ".toml") == ["notes"]


def test_an_unknown_engine_is_named_with_those_there_are(package: Path) -> None:
    (package / "tpu.py").touch()
    with pytest.raises(NotFoundError, match="no engine named 'gpu'") as caught:
        plugins.backend("gpu")
    assert caught.value.hint == "there are: tpu"


@pytest.mark.parametrize("name", ["../evil", "os", "_private", "a.b"])
def test_only_listed_files_are_imported(package: Path, name: str) -> None:
    (package / "_private.py").write_text("raise SystemExit")
    with pytest.raises(NotFoundError, match="no target format named"):
        plugins.converter(name)


def test_a_package_that_is_not_there_has_no_files() -> None:
    assert plugins.stems("no_such_package") == []


def test_every_shipped_backend_and_converter_says_its_name() -> None:
    for name, backend in plugins.backends().items():
        assert backend.name == name
    for name, converter in plugins.converters().items():
        assert converter.name == name
        assert converter.engine in plugins.stems("runtimes") or converter.engine == "tensorrt"
        assert converter.precisions


def test_discovery_loads_no_sdk() -> None:
    script = (
        "import sys; from edge.core import plugins, profile; import edge\n"
        "profile.load_profile('host'); plugins.backends(); plugins.converters()\n"
        "heavy = {'onnx', 'onnxruntime', 'openvino', 'nncf', 'cv2', 'tensorrt'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

"""What README and docs show is run as it stands, on the sample under the names they use."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edge.cli._main import _parser
from edge.core.spec import load_spec
from edge.settings import ModelSettings, Settings, load_settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
ENDLESS = ("serve", "watch")
SECTIONS = r"^\[({})\b".format("|".join(Settings.__struct_fields__))


def _blocks(page: Path, kind: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for named, text in fenced if named == kind]


def _commands(*pages: Path) -> list[str]:
    lines = "\n".join(text for page in pages for text in _blocks(page, "")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("edge ")]


@pytest.fixture(scope="module")
def desk(digits, tmp_path_factory):
    """A folder with the files that the README speaks of."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(digits / "digits.onnx", folder / "model.onnx")
    shutil.copy(digits / "model.toml", folder)
    shutil.copy(digits / "labels.txt", folder)
    shutil.copytree(digits / "calib", folder / "images")
    shutil.copytree(digits / "eval", folder / "labelled")
    shutil.copy(next((digits / "eval" / "3").iterdir()), folder / "photo.jpg")
    return folder


def _tables(is_wanted: Callable[[str], bool]) -> list[str]:
    return [text for page in PAGES for text in _blocks(page, "toml") if is_wanted(text)]


@pytest.mark.parametrize("command", _commands(*PAGES))
def test_command_is_one_that_exists(command):
    words = shlex.split(command)[1:]
    assert _parser(words).parse_args(words).run


def test_commands_run_one_after_the_other(desk):
    commands = [line for line in _commands(README) if line.split()[1] not in ENDLESS]
    assert len(commands) >= 5
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)],
            cwd=desk,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout


def test_python_example_runs(desk):
    code = _blocks(README, "python")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Label(index=3" in done.stdout


@pytest.mark.parametrize("text", _tables(lambda text: "task = " in text or "[build]" in text))
def test_model_spec_example_is_valid(text, tmp_path):
    spec = tmp_path / "model.toml"
    spec.write_text(text)
    assert load_spec(spec)


@pytest.mark.parametrize("text", _tables(lambda text: re.search(SECTIONS, text, re.MULTILINE)))
def test_settings_example_is_valid(text, tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(text)
    assert load_settings(path, {}) != Settings()


def test_settings_example_says_the_defaults(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(next(iter(_tables(lambda text: "[models.squeezenet]" in text))))
    given = load_settings(path, {}).models["squeezenet"]
    assert msgspec.structs.replace(given, max_batch=1, max_delay_us=0) == ModelSettings()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

"""What the README shows is run as it stands, on the sample under the README's names."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edge.cli._main import _parser
from edge.core.spec import load_spec
from edge.settings import ModelSettings, load_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
ENDLESS = ("serve", "watch")


def _commands() -> list[str]:
    lines = "\n".join(text for kind, text in BLOCKS if not kind).splitlines()
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


@pytest.mark.parametrize("command", _commands())
def test_command_is_one_that_exists(command):
    words = shlex.split(command)[1:]
    assert _parser(words).parse_args(words).run


def test_commands_run_one_after_the_other(desk):
    commands = [line for line in _commands() if line.split()[1] not in ENDLESS]
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
    code = next(text for kind, text in BLOCKS if kind == "python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Label(index=3" in done.stdout


def test_model_spec_example_is_valid(tmp_path):
    spec = tmp_path / "model.toml"
    spec.write_text(next(text for kind, text in BLOCKS if kind == "toml"))
    assert load_spec(spec).image is not None


def test_settings_example_is_valid_and_says_the_defaults(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(next(text for kind, text in BLOCKS if kind == "toml" and "[serve]" in text))
    given = load_settings(path, {}).models["squeezenet"]
    assert msgspec.structs.replace(given, max_batch=1, max_delay_us=0) == ModelSettings()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

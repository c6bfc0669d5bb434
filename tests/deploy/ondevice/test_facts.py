"""What a device finds out of itself, with programs that are not this machine's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge.deploy.ondevice import facts
from edge.deploy.ondevice.layout import Layout

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}")
    monkeypatch.setattr(facts, "_is_for_all", lambda path: True)  # also in a folder of tests
    return folder


def put(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_versions_are_those_of_the_packages_that_are_installed(
    programs: Path, tmp_path: Path
) -> None:
    told = [
        "installed libnvinfer10 10.3.0.30-1+cuda12.5",
        "config-files libnvinfer8 8.5.2-1",
        "installed python3-libnvinfer not-a-version",
        "installed intel-level-zero-npu 2:1.13.0-ubuntu",
    ]
    lines = "\n".join(f"echo '{line}'" for line in told)
    put(programs, "dpkg-query", f"{lines}\nexit 1")  # as it does where one is unknown
    (tmp_path / "sys/module/intel_vpu").mkdir(parents=True)
    known = facts.gather(Layout(str(tmp_path)))
    assert known["tensorrt"] == "10.3.0.30"
    assert known["npu_driver"] == "1.13.0"


def test_a_machine_without_packages_of_debian_has_no_versions(
    programs: Path, tmp_path: Path
) -> None:
    known = facts.gather(Layout(str(tmp_path)))
    assert (known["tensorrt"], known["npu_driver"], known["sm"]) == ("", "", "")


def test_each_python_is_asked_once_and_this_one_not_at_all(programs: Path) -> None:
    (programs / "python3").symlink_to(sys.executable)
    counted = f"echo x >> {programs}/asked"
    put(programs, "python3.19", f"{counted}\necho True 3.19")
    (programs / "python3.18").symlink_to("python3.19")
    put(programs, "python3.17", "exit 1")
    put(programs, "python3.16", "echo False")  # none that an environment can be made with
    found = facts.pythons()
    assert [(one["version"], one["has_pycuda"]) for one in found] == [(HERE, False), ("3.19", True)]
    assert found[0]["path"] == sys.executable
    assert (programs / "asked").read_text() == "x\n"


def test_another_python_says_the_same_of_itself_as_this_one(programs: Path) -> None:
    other = programs / "python3.19"
    put(programs, "python3.19", f'exec {sys.executable} "$@"')
    asked = facts._asked(str(other))
    assert asked == {**facts._asked(sys.executable), "path": str(other)}

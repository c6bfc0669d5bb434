from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from edge.core import plugins, profile
from edge.core.errors import ProfileError
from edge.core.profile import load_profile, profile_names

MINIMAL = """
[device]
title = "A board"
[onnx]
opset = 17
ir = 8
[precision]
legal = ["fp32", "int8"]
[runtimes]
order = ["onnxruntime"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that profiles are looked for in."""
    monkeypatch.setattr(plugins, "folders", lambda package: (tmp_path,))
    (tmp_path / "board.toml").write_text(MINIMAL)
    return tmp_path


def test_a_new_file_is_a_new_device(folder: Path) -> None:
    assert profile_names() == ["board"]
    board = load_profile("board")
    assert (board.name, board.device.title, board.onnx.opset) == ("board", "A board", 17)


def test_a_release_is_laid_over_the_profile_and_inherited(folder: Path) -> None:
    (folder / "_base.toml").write_text(MINIMAL + "[releases.v2.onnx]\nopset = 20\nir = 9\n")
    (folder / "board.toml").write_text('extends = "_base"\n')
    assert profile_names() == ["board", "board-v2"]
    assert load_profile("board").onnx.opset == 17
    later = load_profile("board-v2")
    assert (later.name, later.device.title, later.onnx.opset) == ("board-v2", "A board", 20)
    with pytest.raises(ProfileError, match="'board-v3'") as caught:
        load_profile("board-v3")
    assert "board-v2" in caught.value.hint


def test_the_name_is_that_of_the_file(folder: Path) -> None:
    (folder / "board.toml").write_text('name = "other"\n' + MINIMAL)
    assert load_profile("board").name == "board"


def test_a_typo_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(ProfileError, match="'bord'") as caught:
        load_profile("bord")
    assert caught.value.hint == "did you mean board?"


def test_a_name_like_no_other_is_sent_to_the_list(folder: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("zzz")
    assert caught.value.hint == "list them with: edge profiles"


@pytest.mark.parametrize("name", ["../board", "_base", "board.toml", ""])
def test_names_are_no_paths(folder: Path, name: str) -> None:
    (folder / "_base.toml").write_text(MINIMAL)
    with pytest.raises(ProfileError, match="no device profile named"):
        load_profile(name)


@pytest.mark.parametrize(
    ("addition", "named"),
    [
        ("[memory]\nbites = 1", r"`bites` - at `\$\.memory`"),
        ("[memmory]\nbytes = 1", "memmory"),
        ("[memory]\nbytes = 'much'", r"\$\.memory\.bytes"),
        ("[compute]\npeak_tops.npu.int8 = 1", r"npu.*\$\.compute"),
        ("[shapes]\nstatic = 1", r"\$\.shapes\.static"),
        ("[memory\n", "line 1"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(folder: Path, addition: str, named: str) -> None:
    (folder / "board.toml").write_text(MINIMAL + addition)
    with pytest.raises(ProfileError, match=named) as caught:
        load_profile("board")
    assert "board.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('legal = ["fp32", "int8"]', 'legal = ["fp32", "int7"]', "int7"),
        ('legal = ["fp32", "int8"]', "legal = []", "legal"),
        ('"int8"]', '"int8"]\npreference = ["fp16"]', "fp16, which legal does not"),
        ('order = ["onnxruntime"]', "order = []", "no engine"),
        ("opset = 17\n", "", "opset"),
    ],
)
def test_values_that_contradict_are_refused(
    folder: Path, before: str, after: str, named: str
) -> None:
    assert before in MINIMAL
    (folder / "board.toml").write_text(MINIMAL.replace(before, after))
    with pytest.raises(ProfileError, match=named):
        load_profile("board")


def test_extending_lays_tables_over_and_replaces_lists(folder: Path) -> None:
    (folder / "_base.toml").write_text(MINIMAL + '[compute]\nengines = ["gpu", "cpu"]\nsm = "87"')
    (folder / "small.toml").write_text(
        'extends = "_base"\n[device]\narch = "aarch64"\n[compute]\nengines = ["cpu"]'
    )
    small = load_profile("small")
    assert (small.device.title, small.device.arch) == ("A board", "aarch64")
    assert (small.compute.engines, small.compute.sm) == (("cpu",), "87")


@pytest.mark.parametrize("chain", [["board"], ["a", "board"], ["a", "b", "board"]])
def test_profiles_that_extend_each_other_are_refused(folder: Path, chain: list[str]) -> None:
    for name, base in zip(["board", *chain], chain, strict=False):
        (folder / f"{name}.toml").write_text(f'extends = "{base}"')
    with pytest.raises(ProfileError, match=r"extend each other: board -> .*board$"):
        load_profile("board")


def test_a_missing_base_is_named(folder: Path) -> None:
    (folder / "board.toml").write_text('extends = "_gone"')
    with pytest.raises(ProfileError, match=r"_gone\.toml"):
        load_profile("board")


def test_peak_is_the_sum_over_the_chip(folder: Path) -> None:
    (folder / "board.toml").write_text(
        MINIMAL + '[compute]\nengines = ["gpu", "dla"]\n'
        "peak_tops = { gpu = { int8 = 30, fp16 = 15 }, dla = { int8 = 20 } }"
    )
    compute = load_profile("board").compute
    assert (compute.peak("int8"), compute.peak("fp16"), compute.peak("fp4")) == (50, 15, 0)


def test_host_is_this_machine() -> None:
    host = load_profile("host")
    assert host.device.arch == platform.machine()
    assert 1 <= host.compute.cores <= (os.cpu_count() or 1)
    assert host.compute.cpu
    if hasattr(os, "sysconf"):
        assert host.memory.bytes > 2**28


def test_host_loads_where_the_system_tells_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    host = load_profile("host")
    assert (host.memory.bytes, host.compute.cores) == (0, 1)


@pytest.mark.parametrize(
    ("files", "title"),
    [
        ({"proc/cpuinfo": "processor : 0\nmodel name\t: Intel(R) N100\n"}, "Intel(R) N100"),
        (
            {
                "proc/cpuinfo": "processor : 0\nCPU part : 0xd42\n",
                "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
            },
            "NVIDIA Jetson Orin Nano",
        ),
        ({"proc/cpuinfo": "CPU part : 0xd42\n"}, "fallback"),
        ({}, "fallback"),
    ],
)
def test_processor_is_named_on_x86_and_on_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], title: str
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "fallback")
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert profile._cpu_title(tmp_path) == title

"""What is planned for a device, by what it said of itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.core.errors import InputError
from edge.deploy import wheels
from edge.deploy.facts import Facts, decode_facts
from edge.deploy.ondevice import facts as device_facts
from edge.deploy.ondevice.layout import Layout
from edge.deploy.overlay import system_files
from edge.deploy.own_wheel import own_wheel
from edge.deploy.plan import Plan, how_to_take_over, kept_models, make_plan
from edge.deploy.release import Parcel, Release, make_parcel, read_bundles, read_settings
from edge.deploy.wheels import Target, Wheelhouse, collect, extras_for
from edge.settings import Settings

MakeBundle = Callable[..., Path]
ORIN = Target("3.10", "aarch64", "2.35")


@pytest.fixture
def parcel(make_bundle: MakeBundle, wheelhouse: Callable[..., Wheelhouse]) -> Parcel:
    bundles = read_bundles([make_bundle("2")])
    return make_parcel(bundles, read_settings(None), wheelhouse((), ORIN))


def facts_with(release: Release | None, updates: Any = ()) -> Facts:
    """Of a device on which this was installed, by the document that was sent there."""
    known = msgspec.json.decode(release.document()) if release else None
    blank: dict[str, Any] = dict.fromkeys(
        ("hostname", "arch", "system", "board", "glibc", "l4t", "cuda", "tensorrt", "sm", "init")
    )
    blank = dict.fromkeys(blank, "")
    numbers = dict.fromkeys(("memory_bytes", "free_memory_bytes", "free_disk_bytes"), 0)
    switches = dict.fromkeys(("has_pycuda", "can_write", "has_systemd"), True)
    more = {"npu_driver": "", "pythons": [], "release": known, "updates": updates}
    return decode_facts({**blank, **numbers, **switches, **more})


def planned(parcel: Parcel, release: Release | None, held: dict[str, int]) -> Plan:
    placed = system_files(Layout())
    return make_plan(parcel, placed, facts_with(release), held, timeout_s=60)


def changed(release: Release, **fields: Any) -> Release:
    return msgspec.structs.replace(release, **fields)


def older(release: Release) -> Release:
    (model,) = release.models
    return changed(release, models=(msgspec.structs.replace(model, version="1"),))


def test_a_fresh_device_gets_all_in_order(parcel: Parcel) -> None:
    plan = planned(parcel, None, {})
    kinds = [step.do for step in plan.steps if step.do != "send"]
    assert kinds == ["place", "install", "assemble", "check", "switch"]
    assert plan.takeover == "first"
    sizes = parcel.release.parts()
    assert {step.file for step in plan.steps if step.do == "send"} > sizes.keys()


def test_only_what_is_missing_is_sent(parcel: Parcel) -> None:
    sizes = parcel.release.parts()
    (model,) = parcel.release.models
    held = {**sizes, model.sha256: 100}
    plan = make_plan(parcel, [], facts_with(older(parcel.release)), held, timeout_s=60)
    (sent,) = [step for step in plan.steps if step.do == "send"]
    assert sent.arguments == {"offset": 100}
    assert plan.missing_bytes == model.size_bytes - 100
    assert plan.texts[0] == f"send {plan.missing_bytes:,} bytes: m 2 from byte 100 on"
    assert [step.do for step in plan.steps] == ["send", "assemble", "switch"]


def test_how_a_release_takes_over(parcel: Parcel) -> None:
    release, settings = parcel.release, Settings()
    quiet = Settings(serve=msgspec.structs.replace(settings.serve, watch_s=0))

    def how(there: Release | None, by: Settings = settings, updates: Any = ()) -> str:
        return how_to_take_over(release, by, facts_with(there, updates))

    before = older(release)
    assert how(None) == "first"
    assert how(release) == "none"
    assert how(before) == "live"
    assert how(before, quiet) == "restart"
    assert how(before, updates=[{"name": "m", "version": "1.5"}]) == "restart"
    assert how(before, updates=[{"name": "other", "version": "9"}]) == "live"
    part = msgspec.structs.replace(release.settings, sha256="0" * 64)
    assert how(changed(before, settings=part)) == "restart"
    runtime = msgspec.structs.replace(release.runtime, python="3.12")
    assert how(changed(before, runtime=runtime)) == "restart"
    (model,) = release.models
    newer = msgspec.structs.replace(model, version="10")
    assert how(changed(release, models=(newer,))) == "restart"


def test_the_version_before_stays_beside_the_new_one_but_no_newer_one(parcel: Parcel) -> None:
    release = parcel.release
    before = facts_with(older(release)).release
    assert [model.version for model in kept_models(release, before)] == ["1"]
    assert kept_models(older(release), facts_with(release).release) == []
    assert kept_models(release, None) == []


def test_the_same_parts_are_the_same_release(parcel: Parcel) -> None:
    again = msgspec.convert(msgspec.to_builtins(parcel.release), Release)
    assert again.digest == parcel.release.digest
    assert changed(again, http="127.0.0.1:9").digest != again.digest


def test_a_jetson_says_what_it_has(tmp_path: Path) -> None:
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
        "proc/meminfo": "MemTotal:        7802952 kB\nMemAvailable:    6123456 kB\n",
        "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = device_facts.gather(Layout(str(tmp_path)))
    known = ("l4t", "sm", "cuda", "board", "system", "memory_bytes", "npu_driver")
    assert [found[name] for name in known] == [
        *("36.4.3", "87", "12.6", "NVIDIA Jetson Orin Nano Developer Kit", "Ubuntu 22.04.5 LTS"),
        *(7802952 * 1024, ""),
    ]


def test_wheels_are_chosen_for_the_device_and_not_for_this_machine() -> None:
    tags = ORIN.platforms
    assert tags[0] == "manylinux_2_35_aarch64"
    assert {"manylinux2014_aarch64", "manylinux_2_17_aarch64"} <= set(tags)
    assert not any("2_36" in tag or "x86_64" in tag for tag in tags)
    assert ORIN.markers["python_version"] == "3.10"
    assert Target("3.11", "x86_64", "2.36").platforms[-2] == "manylinux1_x86_64"


def test_dependencies_of_another_python_are_collected_too(tmp_path: Path) -> None:
    """By pip itself, from a folder: one package wants another on Python 3.10 alone."""
    folder, cache = tmp_path / "wheels", tmp_path / "cache"
    folder.mkdir()
    name = "edge_runtime-0.1.0-py3-none-any.whl"
    need = "Requires-Dist: only-there; python_version < '3.11' and platform_machine == 'aarch64'\n"
    own = _wheel(tmp_path / name, need)
    _wheel(folder / "only_there-1.0-py3-none-any.whl")
    _wheel(folder / "pip-99.0-py3-none-any.whl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheels, "own_wheel", lambda cache: own)
        patch.setenv("PIP_NO_INDEX", "1")
        old = collect((), ORIN, more=folder, cache=cache)
        new = collect((), Target("3.12", "aarch64", "2.39"), more=folder, cache=cache)
        again = collect((), ORIN, more=folder, cache=cache)
    assert [path.name.partition("-")[0] for path in old.wheels] == [
        "edge_runtime",
        "only_there",
        "pip",
    ]
    assert [path.name.partition("-")[0] for path in new.wheels] == ["edge_runtime", "pip"]
    assert again == old


def test_what_is_installed_becomes_a_wheel_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "edge_runtime-0.1.0.dist-info"
    info.mkdir()
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge/__init__.py").write_text("answer = 42\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edge-runtime\nVersion: 0.1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    listed = ["edge/__init__.py", "edge/__pycache__/__init__.pyc", "../../bin/edge"]
    names = [*listed, *(f"{info.name}/{name}" for name in ("METADATA", "WHEEL", "RECORD"))]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    here = metadata.Distribution.at(info)
    monkeypatch.setattr(metadata, "distribution", lambda name: here)
    wheel = own_wheel(tmp_path / "cache")
    assert own_wheel(tmp_path / "cache") == wheel
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    assert (target / "edge/__init__.py").read_text() == "answer = 42\n"


def test_a_package_without_a_wheel_is_named(tmp_path: Path) -> None:
    own = _wheel(tmp_path / "edge_runtime-0.1.0-py3-none-any.whl", "Requires-Dist: nowhere\n")
    folder = tmp_path / "wheels"
    folder.mkdir()
    _wheel(folder / "pip-99.0-py3-none-any.whl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheels, "own_wheel", lambda cache: own)
        patch.setenv("PIP_NO_INDEX", "1")
        with pytest.raises(
            InputError, match=r"wheel of nowhere for Python 3\.10 on aarch64"
        ) as error:
            collect((), ORIN, more=folder, cache=tmp_path)
    assert "--wheels" in error.value.hint


def test_extras_follow_the_bundles_and_the_settings(parcel: Parcel) -> None:
    mqtt = msgspec.structs.replace(Settings().mqtt, formats=("json", "sparkplug"))
    found = extras_for(parcel.manifests, Settings(mqtt=mqtt))
    assert set(found) == {"null", "sign", "json", "sparkplug"}


def _wheel(path: Path, needs: str = "") -> Path:
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", head)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path

"""The root folder of a virtual device: made once, by tools that are asked for first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge.core.errors import UnavailableError
from edge.deploy.virtual import rootfs, tools


@pytest.fixture
def fake_debootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A debootstrap that makes a folder, or fails where ``fail`` exists, and keeps its calls."""
    folder = tmp_path / "tools"
    folder.mkdir()
    script = f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
for last; do mirror=$last; root=$before; before=$last; done
mkdir -p "$root/etc/ssh" "$root/var/lib/apt/lists/x" "$root/var/lib/dbus"
touch "$root/etc/ssh/ssh_host_rsa_key" "$root/etc/hostname"
echo 0123 > "$root/var/lib/dbus/machine-id"
[ ! -e {tmp_path}/fail ] || {{ echo "E: no such mirror"; exit 1; }}
"""
    for name in tools.PACKAGES:
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    # Runs what it is given: a container may not allow the real one.
    (folder / "unshare").write_text(
        '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\n"$@"\n'
    )
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    binfmt = tmp_path / "binfmt"
    binfmt.touch()
    monkeypatch.setattr(rootfs, "_BINFMT", binfmt)
    return tmp_path


def test_base_is_made_once_and_holds_nothing_of_one_device(fake_debootstrap: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        base = rootfs.base_root(told.append, cache=fake_debootstrap / "cache")
    assert len((fake_debootstrap / "calls").read_text().splitlines()) == len(told) == 1
    assert "--arch=arm64" in (fake_debootstrap / "calls").read_text()
    assert list((base / "etc/ssh").iterdir()) == list((base / "var/lib/dbus").iterdir()) == []
    assert (base / "etc/machine-id").read_text() == ""
    assert not (base / "etc/hostname").exists()


def test_base_that_failed_leaves_nothing_and_is_made_anew(fake_debootstrap: Path) -> None:
    fail = fake_debootstrap / "fail"
    fail.touch()
    with pytest.raises(UnavailableError, match="no such mirror"):
        rootfs.base_root(print, cache=fake_debootstrap / "cache")
    assert [path for path in (fake_debootstrap / "cache/virtual").iterdir() if path.is_dir()] == []
    fail.unlink()
    assert rootfs.base_root(print, cache=fake_debootstrap / "cache").is_dir()


def test_base_that_is_interrupted_leaves_nothing(
    fake_debootstrap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rootfs, "_clean", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rootfs.base_root(print, cache=fake_debootstrap / "cache")
    assert [path for path in (fake_debootstrap / "cache/virtual").iterdir() if path.is_dir()] == []


def test_what_is_missing_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(UnavailableError, match="debootstrap") as caught:
        rootfs.require_tools(cache=tmp_path)
    assert "apt-get install debootstrap e2fsprogs fdisk mtools util-linux" in caught.value.hint


def test_who_is_not_root_is_told_to_be(
    fake_debootstrap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match="only root") as caught:
        rootfs.require_tools(cache=fake_debootstrap)
    assert "sudo" in caught.value.hint


def test_emulation_is_asked_for_only_until_there_is_a_base(
    fake_debootstrap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_debootstrap / "binfmt").unlink()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(UnavailableError, match="arm64 programs") as caught:
        rootfs.require_tools(cache=fake_debootstrap)
    assert "qemu-user-static" in caught.value.hint
    (fake_debootstrap / "binfmt").touch()
    rootfs.base_root(print, cache=fake_debootstrap)
    (fake_debootstrap / "binfmt").unlink()
    rootfs.require_tools(cache=fake_debootstrap)

"""How QEMU is called, and what an image holds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from edge.core.errors import InputError, UnavailableError
from edge.deploy.overlay import Placed
from edge.deploy.virtual import rootfs
from edge.deploy.virtual.image import boot_files, make_image
from edge.deploy.virtual.machine import Hardware, VirtualMachine, command

needs_mkfs = pytest.mark.skipif(
    shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None or os.geteuid() != 0,
    reason="mkfs.ext4 and root make images",
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A root folder that nothing could boot, but of the right shape."""
    boot = tmp_path / "base/boot"
    boot.mkdir(parents=True)
    for version in ("6.1.0-9", "6.1.0-50"):
        (boot / f"vmlinuz-{version}").write_bytes(b"kernel " + version.encode())
        (boot / f"initrd.img-{version}").write_bytes(b"disk " + version.encode())
    return tmp_path / "base"


def test_ports_and_what_is_discarded_are_in_the_call() -> None:
    hardware = Hardware(1 << 30, 3, {2222: 22, 8000: 8000}, is_discarded=True)
    call = " ".join(command(Path("a.img"), (Path("k"), Path("i")), hardware, Path("c")))
    assert "hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:8000-:8000" in call
    assert "-m 1024M" in call
    assert "-smp 3" in call
    assert "file=a.img,format=raw,if=virtio,snapshot=on" in call


@needs_mkfs
def test_image_holds_the_base_and_what_is_laid_over_it(base: Path, tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    make_image(base, [Placed("/etc/edge/x", b"over", 0o600)], image, 32 << 20)
    dumped = tmp_path / "x"
    subprocess.run(["/usr/sbin/debugfs", "-R", f"dump /etc/edge/x {dumped}", image], check=True)
    assert dumped.read_bytes() == b"over"
    assert not (base / "etc/edge").exists(), "the base is as it was"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    subprocess.run(["/usr/sbin/fsck.ext4", "-n", "-f", image], check=True, capture_output=True)


@needs_mkfs
def test_newest_kernel_is_booted_with_its_own_disk(base: Path, tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    make_image(base, [], image, 32 << 20)
    kernel, initrd = boot_files(image, tmp_path)
    assert kernel.read_bytes() == b"kernel 6.1.0-50"
    assert initrd.read_bytes() == b"disk 6.1.0-50"


@needs_mkfs
def test_image_that_is_too_small_leaves_the_former_one(base: Path, tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    image.write_bytes(b"former")
    (base / "large").write_bytes(os.urandom(8 << 20))
    with pytest.raises(InputError, match="too small"):
        make_image(base, [], image, 4 << 20)
    assert image.read_bytes() == b"former"


@needs_mkfs
def test_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    image.write_bytes(b"nothing to boot" * 1000)
    with pytest.raises((InputError, UnavailableError)) as caught:
        boot_files(image, tmp_path)
    assert "edge flash" in caught.value.hint


def test_missing_image_is_told_before_anything_starts(tmp_path: Path) -> None:
    machine = VirtualMachine(tmp_path / "none.img", Hardware())
    with pytest.raises(InputError, match="there is no image") as caught:
        machine.start()
    assert "edge flash" in caught.value.hint


def test_port_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (tmp_path / "a.img").write_bytes(b"")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        machine = VirtualMachine(tmp_path / "a.img", Hardware(ports={port: 22}))
        with pytest.raises(InputError, match=f"port {port} is taken"):
            machine.start()


@pytest.fixture
def fake_debootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A debootstrap that makes a folder, or fails where ``fail`` exists, and keeps its calls."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
for last; do mirror=$last; root=$before; before=$last; done
mkdir -p "$root/etc/ssh" "$root/var/lib/apt/lists/x"
touch "$root/etc/ssh/ssh_host_rsa_key"
[ ! -e {tmp_path}/fail ] || {{ echo "E: no such mirror"; exit 1; }}
"""
    for name in ("debootstrap", "mkfs.ext4", "debugfs"):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    binfmt = tmp_path / "binfmt"
    binfmt.touch()
    monkeypatch.setattr(rootfs, "_BINFMT", binfmt)
    return tmp_path


def test_base_is_made_once_and_holds_no_host_key(fake_debootstrap: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        base = rootfs.base_root(told.append, cache=fake_debootstrap / "cache")
    assert len((fake_debootstrap / "calls").read_text().splitlines()) == len(told) == 1
    assert "--arch=arm64" in (fake_debootstrap / "calls").read_text()
    assert list((base / "etc/ssh").iterdir()) == []
    assert (base / "etc/machine-id").read_text() == ""


def test_base_that_failed_is_made_anew(fake_debootstrap: Path) -> None:
    fail = fake_debootstrap / "fail"
    fail.touch()
    with pytest.raises(UnavailableError, match="no such mirror"):
        rootfs.base_root(print, cache=fake_debootstrap / "cache")
    fail.unlink()
    assert rootfs.base_root(print, cache=fake_debootstrap / "cache").is_dir()


def test_what_is_missing_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(UnavailableError, match="debootstrap") as caught:
        rootfs.base_root(print, cache=tmp_path)
    assert "apt-get install debootstrap e2fsprogs" in caught.value.hint


def test_who_is_not_root_is_told_to_be(
    fake_debootstrap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match="only root") as caught:
        rootfs.base_root(print, cache=fake_debootstrap / "cache")
    assert "sudo" in caught.value.hint

"""What is attached to this machine is looked at before it is written to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edge.core.errors import InputError, UnavailableError
from edge.core.profile import load_profile
from edge.deploy.flash import attached

FLASH = load_profile("jetson-orin-nano-8gb").flash


def test_boards_of_nvidia_are_seen_on_usb(tmp_path: Path) -> None:
    for name, vendor, product in (("1-2", "0955", "7523"), ("1-3", "046d", "c31c")):
        device = tmp_path / "sys/bus/usb/devices" / name
        device.mkdir(parents=True)
        (device / "idVendor").write_text(f"{vendor}\n")
        (device / "idProduct").write_text(f"{product}\n")
    assert attached.boards_on_usb(tmp_path) == ["7523"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "no board of NVIDIA's"),
        (["7020"], "is up, and not in recovery mode"),
        (["7523", "7323"], "0955:7323, and a module 3767-0005"),
    ],
)
def test_what_speaks_against_a_flash_is_said(found: list[str], said: str) -> None:
    assert said in attached.doubts(FLASH, found)


def test_boards_that_fit_raise_no_doubts() -> None:
    assert attached.doubts(FLASH, ["7523", "7523"]) == ""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """With a system on sda, swap on sdb1, a volume group on sdc2 and nothing on sdd1."""
    for disk, part in (("sda", "sda1"), ("sdb", "sdb1"), ("sdc", "sdc2"), ("sdd", "sdd1")):
        folder = tmp_path / "sys/block" / disk / part
        (folder / "holders").mkdir(parents=True)
        (folder / "partition").touch()
    (tmp_path / "sys/block/sdc/sdc2/holders/dm-0").touch()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mounts").write_text("/dev/sda1 / ext4 rw 0 0\n")
    (tmp_path / "proc/swaps").write_text("Filename Type\n/dev/sdb1 partition 1 0 -2\n")
    return tmp_path


def test_drive_that_nobody_uses_is_written(machine: Path) -> None:
    attached.require_unused("sdd", machine)


@pytest.mark.parametrize(("disk", "part"), [("sda", "sda1"), ("sdb", "sdb1"), ("sdc", "sdc2")])
def test_drive_that_this_machine_uses_is_not_written(machine: Path, disk: str, part: str) -> None:
    with pytest.raises(InputError, match=rf"/dev/{disk} is in use \({part}\)"):
        attached.require_unused(disk, machine)


def test_drive_that_the_kernel_holds_under_another_name_is_not_written(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(path: Path, flags: int) -> int:
        assert (path, flags) == (machine / "dev/sdd", os.O_RDONLY | os.O_EXCL)
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "open", held)
    with pytest.raises(InputError, match=r"/dev/sdd is in use \(by the system\)"):
        attached.require_unused("sdd", machine)


def test_what_is_mounted_in_a_folder_is_found(machine: Path) -> None:
    below = machine / "rootfs"
    lines = f"proc {below}/proc proc rw 0 0\nsys {below}-other/sys sysfs rw 0 0\n"
    (machine / "proc/self/mounts").write_text(lines)
    assert attached.mounted_below(below, machine) == [f"{below}/proc"]


@pytest.mark.parametrize("disk", ["", "sdz", "sda1"])
def test_what_is_no_drive_is_not_written(machine: Path, disk: str) -> None:
    with pytest.raises(InputError, match="is no disk of this machine"):
        attached.require_unused(disk, machine)


@pytest.fixture
def losetup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that only tells how it was called, and fails where there is a file ``fail``."""
    program = tmp_path / "bin/losetup"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\n[ ! -f {tmp_path}/fail ] || {{ echo no >&2; exit 1; }}\n"
        f'echo "$@" >> {tmp_path}/calls\n[ "$1" != --find ] || echo /dev/loop7\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def test_image_is_there_once_it_is_whole(losetup: Path) -> None:
    image = losetup / "x.img"
    with attached.as_drive(image, 10**12) as disk:
        assert disk == "loop7"
        assert not image.exists()
    assert image.stat().st_size == 10**12
    assert image.stat().st_blocks == 0, "it takes no disk"
    assert (losetup / "calls").read_text().splitlines()[1] == "--detach /dev/loop7"


def test_image_that_failed_leaves_nothing(losetup: Path) -> None:
    with pytest.raises(KeyboardInterrupt), attached.as_drive(losetup / "x.img", 10):
        raise KeyboardInterrupt
    assert "--detach /dev/loop7" in (losetup / "calls").read_text()
    (losetup / "fail").touch()
    with (
        pytest.raises(UnavailableError, match="can not be a drive here: no"),
        attached.as_drive(losetup / "x.img", 10),
    ):
        pass
    assert not [path for path in losetup.iterdir() if "x.img" in path.name]

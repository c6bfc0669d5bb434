"""NVIDIA's ``Linux_for_Tegra`` folder: which release it is, and whether it fits a device."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge.core.errors import InputError
from edge.core.profile import DeviceProfile
from edge.core.versions import meets
from edge.deploy.flash.attached import mounted_below

OLDEST_PYTHON = "3.10"

_VERSION = Path("nv_tegra/bsp_version")
_RELEASE = Path("rootfs/etc/nv_tegra_release")
_PREPARE = (
    "unpack the sample root file system into rootfs/ (tar xpf, as root), "
    "then sudo ./apply_binaries.sh"
)


class Problem(msgspec.Struct, frozen=True):
    """What keeps a BSP from being flashed for a device, and what to do about it."""

    what: str
    do: str


class Bsp:
    """The folder at ``path``.

    Raises:
        InputError: It is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        if not (path / "flash.sh").is_file():
            raise InputError(
                f"{path} is no Linux_for_Tegra folder: there is no flash.sh",
                hint="unpack Jetson_Linux_R*_aarch64.tbz2 and name the folder that comes out of it",
            )
        self.version = self._version()

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def problems(self, profile: DeviceProfile) -> list[Problem]:
        """All that is wrong, so that nobody learns of it one by one."""
        return [*self._of_release(profile), *self._of_rootfs(profile)]

    def _of_release(self, profile: DeviceProfile) -> Iterator[Problem]:
        wanted = profile.software.l4t
        if not self.version:
            yield Problem("its release is not said anywhere", f"compare {_VERSION} of another one")
        elif wanted and not meets(self.version, wanted):
            yield Problem(
                f"it is L4T {self.version}, {profile.name} needs {wanted}",
                "take that release, or another profile: edge profiles",
            )
        if not meets(profile.software.python, f">={OLDEST_PYTHON}"):
            yield Problem(
                f"{profile.name} has Python {profile.software.python}, edge needs {OLDEST_PYTHON}",
                "use the container image there",
            )
        if not self.has(f"{profile.flash.board}.conf"):
            yield Problem(
                f"it does not know the board {profile.flash.board}",
                f"there is no {profile.flash.board}.conf: take the release for this board",
            )

    def _of_rootfs(self, profile: DeviceProfile) -> Iterator[Problem]:
        if not (self.rootfs / "etc/os-release").is_file():
            yield Problem("its rootfs is empty", _PREPARE)
            return
        sudo = self.rootfs / "usr/bin/sudo"
        if sudo.is_file() and not (sudo.stat().st_mode & stat.S_ISUID and sudo.stat().st_uid == 0):
            yield Problem(
                "its rootfs was not unpacked as root, and sudo would fail there", _PREPARE
            )
        mounted = mounted_below(self.rootfs)
        if mounted:
            yield Problem("this machine is mounted in its rootfs", f"umount {' '.join(mounted)}")
        drivers = self._version_of_drivers()
        if not drivers:
            yield Problem("its rootfs has no NVIDIA drivers", "sudo ./apply_binaries.sh")
        elif drivers.split(".")[:2] != self.version.split(".")[:2]:  # apt may have brought patches
            yield Problem(f"its rootfs has the drivers of L4T {drivers}", f"empty it, {_PREPARE}")
        python = self._python()
        if python != profile.software.python:
            has = f"Python {python}" if python else "no Python 3"
            do = "take the sample root file system of this release"
            yield Problem(f"its rootfs has {has}, not {profile.software.python}", do)

    def _version(self) -> str:
        """As ``36.4.4``; empty where nothing says it."""
        text = _text(self.path / _VERSION)
        found = {
            name: re.search(rf"^BSP_{name}=(\d+)", text, re.MULTILINE)
            for name in ("BRANCH", "MAJOR", "MINOR")
        }
        if all(found.values()):
            return ".".join(match[1] for match in found.values() if match)
        return self._version_of_drivers()

    def _version_of_drivers(self) -> str:
        told = re.search(r"# R(\d+) .*REVISION: ([\d.]+)", _text(self.path / _RELEASE))
        return f"{told[1]}.{told[2]}" if told else ""

    def _python(self) -> str:
        link = self.rootfs / "usr/bin/python3"
        name = link.readlink().name if link.is_symlink() else ""
        return name.removeprefix("python")


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""

"""One file that QEMU boots: the system, and what is to be installed at its first boot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from edge.core.errors import InputError, UnavailableError
from edge.deploy.overlay import Placed, lay

_FSTAB = b"/dev/vda / ext4 errors=remount-ro 0 1\n"
_NETWORK = b"[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"
_WANTS = "/etc/systemd/system/multi-user.target.wants"

_SYSTEM = [
    Placed("/etc/fstab", _FSTAB),
    Placed("/etc/systemd/network/80-wired.network", _NETWORK),
    Placed(
        f"{_WANTS}/systemd-networkd.service", target="/lib/systemd/system/systemd-networkd.service"
    ),
]


def make_image(base: Path, placed: Iterable[Placed], image: Path, size_bytes: int) -> None:
    """Lay files over a copy of the folder ``base``, and make a file system of it.

    Args:
        image: Replaced if it exists; there whole, or as it was.
    Raises:
        InputError: It does not fit into ``size_bytes``.
        UnavailableError: The disk is full, or a tool fails.
    """
    partial = image.with_name(f".{image.name}.partial")
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        work = Path(folder) / "root"
        _run(["cp", "-a", "--reflink=auto", str(base), str(work)])
        lay([*_SYSTEM, *placed], work)
        try:
            with open(partial, "wb") as stream:
                stream.truncate(size_bytes)
            _run(["mkfs.ext4", "-q", "-F", "-L", "edge-root", "-d", str(work), str(partial)])
            os.replace(partial, image)
        except OSError as error:
            raise UnavailableError(f"can not write {image}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)


def boot_files(image: Path, into: Path) -> tuple[Path, Path]:
    """Take kernel and initial RAM disk out of the image, without mounting it.

    Raises:
        InputError: It is no image that ``make_image`` made.
    """
    listing = _debugfs(image, "ls -p /boot")
    names = [line.split("/")[5] for line in listing.splitlines() if line.count("/") > 5]
    found = []
    for prefix in ("vmlinuz-", "initrd.img-"):
        name = max((one for one in names if one.startswith(prefix)), key=_by_number, default="")
        if not name:
            raise InputError(
                f"{image} has no {prefix.rstrip('-')} in /boot",
                hint="make one: edge flash --profile virtual-arm64 … -o device.img",
            )
        _debugfs(image, f"dump /boot/{name} {into / prefix}")
        found.append(into / prefix)
    return found[0], found[1]


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _debugfs(image: Path, request: str) -> str:
    return _run(["debugfs", "-R", request, str(image)])


def _run(command: list[str]) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if shutil.which(command[0], path=path) is None:
        raise UnavailableError(
            f"{command[0]} is not installed", hint="sudo apt-get install e2fsprogs"
        )
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "Could not allocate block" in done.stderr or "No space" in reason:
            raise InputError(
                f"the image is too small, or the disk full: {reason}", hint="--size 8GiB"
            )
        raise UnavailableError(f"{command[0]} failed: {reason}")
    return done.stdout

"""What is attached to this machine: boards on USB, and drives that belong into boards."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edge.core.errors import InputError, UnavailableError
from edge.core.profile import Flash

_NVIDIA = "0955"
_UP = "7020"
"""A Jetson that runs Linux, whichever it is."""


def boards_on_usb(root: Path = Path("/")) -> list[str]:
    """Products of NVIDIA on USB, as ``7523``: a board that is up shows as another one."""
    found = []
    for vendor in sorted((root / "sys/bus/usb/devices").glob("*/idVendor")):
        if vendor.read_text().strip() == _NVIDIA:
            found.append((vendor.parent / "idProduct").read_text().strip())
    return found


def doubts(flash: Flash, found: Sequence[str]) -> str:
    """What speaks against flashing the products ``found`` on USB; empty for nothing."""
    others = sorted({product for product in found if product != flash.usb})
    if not found:
        return "no board of NVIDIA's is on USB: the tool may wait for one"
    if _UP in others:
        return "a board on USB is up, and not in recovery mode (0955:7020)"
    if flash.usb and others:
        return (
            f"on USB is 0955:{', 0955:'.join(others)}, and a module {flash.module} in recovery "
            f"mode is 0955:{flash.usb}: is it another one?"
        )
    return ""


def mounted_below(folder: Path, root: Path = Path("/")) -> list[str]:
    """File systems that are mounted in there, as a chroot that was broken off leaves them."""
    lines = (root / "proc/self/mounts").read_text().splitlines()
    places = [line.split()[1] for line in lines]
    return [place for place in places if place.startswith(f"{folder.resolve()}/")]


def require_unused(disk: str, root: Path = Path("/")) -> None:
    """
    Raises:
        InputError: This machine has no such disk, or uses it: it would be overwritten.
    """
    folder = root / "sys/block" / disk
    if not disk or not folder.is_dir():
        raise InputError(f"{disk!r} is no disk of this machine", hint="lsblk -d lists them")
    mounts = (root / "proc/self/mounts").read_text() + (root / "proc/swaps").read_text()
    parts = [disk, *(path.parent.name for path in folder.glob("*/partition"))]
    used = [part for part in parts if re.search(rf"^/dev/{part}\s", mounts, re.MULTILINE)]
    used += [path.parent.parent.name for path in folder.glob("**/holders/*")]
    if used or _is_claimed(root / "dev" / disk):
        raise InputError(
            f"/dev/{disk} is in use ({', '.join(sorted(set(used)) or ['by the system'])})",
            hint="all on it would be lost: lsblk shows what it is; unmount it if it is the one",
        )


def _is_claimed(device: Path) -> bool:
    """Whether the kernel says so, also where a mount is called otherwise: /dev/root, a ZFS pool."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError as error:  # who may not open it can not overwrite it either
        return error.errno == errno.EBUSY
    return False


@contextmanager
def as_drive(image: Path, size_bytes: int) -> Iterator[str]:
    """A new file as a drive of this machine, by its name, as ``loop0``.

    Raises:
        UnavailableError: There can be none, as without root.
    """
    partial = image.with_name(f".{image.name}.partial")
    try:
        with open(partial, "wb") as stream:
            stream.truncate(size_bytes)  # it takes no more of the disk than is written to it
        disk = _losetup("--find", "--show", "--partscan", str(partial))
        try:
            yield disk.rpartition("/")[2]
        finally:
            _losetup("--detach", disk)
        partial.replace(image)
    except OSError as error:
        raise UnavailableError(f"can not write {image}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _losetup(*words: str) -> str:
    try:
        done = subprocess.run(["losetup", *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        raise UnavailableError(
            f"a file can not be a drive here: {str(said).strip()}",
            hint="the same command with sudo; modprobe loop",
        ) from error
    return done.stdout.strip()

"""One file that firmware boots as a disk: the system, and what its first boot is to install."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge.core.errors import InputError, UnavailableError
from edge.deploy.overlay import Placed, lay
from edge.deploy.virtual import tools
from edge.deploy.virtual.boot import BOOT_LABEL, ROOT_LABEL, boot_files, system_files

_NETWORK = b"[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"
_WANTS = "/etc/systemd/system/multi-user.target.wants"
_SYSTEM = [
    Placed("/etc/systemd/network/80-wired.network", _NETWORK),
    Placed(
        f"{_WANTS}/systemd-networkd.service", target="/lib/systemd/system/systemd-networkd.service"
    ),
]

_TOOLS = ("sfdisk", "mformat", "mcopy", "mkfs.ext4")
_SECTOR = 512
_GPT_BYTES = 1 << 20  # before the first partition, and after the last
_BOOT_BYTES = 256 << 20  # a kernel and its initial RAM disk take 42 MB; apt keeps three
_ROOT_START = _GPT_BYTES + _BOOT_BYTES
# https://uapi-group.org/specifications/specs/discoverable_partitions_specification/
_ARM64_ROOT = "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"


def make_image(base: Path, placed: Iterable[Placed], image: Path, size_bytes: int) -> None:
    """Lay files over a copy of the folder ``base``, and make a disk of it that boots.

    Args:
        image: Replaced if it exists; there whole, or as it was.
    Raises:
        InputError: It does not fit into ``size_bytes``, or nothing would boot ``base``.
        UnavailableError: The disk is full, or a tool fails or is not installed.
    """
    tools.require(_TOOLS)
    partial = image.with_name(f".{image.name}.partial")
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        root, boot = Path(folder) / "root", Path(folder) / "boot"
        _run(["cp", "-a", "--reflink=auto", str(base), str(root)])
        lay([*_SYSTEM, *system_files(), *placed], root)
        lay(boot_files(root), boot)
        try:
            with open(partial, "wb") as stream:
                stream.truncate(size_bytes)
            _partition(partial, size_bytes)
            _fill_boot(partial, boot)
            _fill_root(partial, root, size_bytes)
            os.replace(partial, image)
        except OSError as error:
            raise UnavailableError(f"can not write {image}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)


def require_disk(image: Path) -> None:
    """
    Raises:
        InputError: There is no such file, or no partition table in it.
    """
    hint = "make one: edge flash --profile virtual-arm64 … -o device.img"
    try:
        with open(image, "rb") as stream:
            stream.seek(_SECTOR)
            is_disk = stream.read(8) == b"EFI PART"
    except OSError as error:
        raise InputError(f"there is no image {image}: {error.strerror}", hint=hint) from error
    if not is_disk:
        raise InputError(f"{image} is no disk that boots", hint=hint)


def _partition(image: Path, size_bytes: int) -> None:
    if size_bytes < _ROOT_START + 2 * _GPT_BYTES:
        raise InputError(f"the image is too small: {size_bytes >> 20} MiB", hint="--size 4GiB")
    script = f"""\
label: gpt
start={_GPT_BYTES // _SECTOR}, size={_BOOT_BYTES // _SECTOR}, type=uefi, name={BOOT_LABEL}
start={_ROOT_START // _SECTOR}, type={_ARM64_ROOT}, name={ROOT_LABEL}
"""
    _run(["sfdisk", "--quiet", str(image)], script)


def _fill_boot(image: Path, folder: Path) -> None:
    where = f"{image}@@{_GPT_BYTES}"
    sectors = str(_BOOT_BYTES // _SECTOR)
    _run(["mformat", "-i", where, "-F", "-T", sectors, "-v", BOOT_LABEL, "::"])
    _run(["mcopy", "-i", where, "-s", *map(str, sorted(folder.iterdir())), "::"])


def _fill_root(image: Path, folder: Path, size_bytes: int) -> None:
    size = f"{(size_bytes - _ROOT_START - _GPT_BYTES) >> 10}k"
    offset = f"offset={_ROOT_START}"
    command = ["mkfs.ext4", "-q", "-F", "-L", ROOT_LABEL, "-d", str(folder), "-E", offset]
    _run([*command, str(image), size])


def _run(command: Sequence[str], given: str = "") -> None:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, env=tools.environment(), check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "Could not allocate block" in done.stderr or "No space" in reason:
            raise InputError(
                f"the image is too small, or the disk full: {reason}", hint="--size 8GiB"
            )
        raise UnavailableError(f"{command[0]} failed: {reason}")

"""What firmware starts the system by: systemd-boot, and the kernels, on a partition of their own.

They lie and are named as the system's own ``kernel-install`` does it
(https://www.freedesktop.org/software/systemd/man/252/kernel-install.html), so that a new kernel or
boot loader that apt installs on the device takes the place of these.
"""

from __future__ import annotations

from pathlib import Path

from edge.core.errors import InputError
from edge.deploy.overlay import Placed

ROOT_LABEL = "edge-root"
BOOT_LABEL = "EDGE-BOOT"  # FAT knows 11 capital letters

_MOUNTED = "/boot/efi"
_ENTRIES = "edge"
_KERNEL_LINE = f"root=LABEL={ROOT_LABEL} rw console=ttyAMA0 panic=5"
_LOADER = "usr/lib/systemd/boot/efi/systemd-bootaa64.efi"
# Mounted only while it is looked at: a power cut finds it whole.
_WHEN_USED = "umask=0077,noauto,x-systemd.automount,x-systemd.idle-timeout=10s"
_FSTAB = f"""\
LABEL={ROOT_LABEL} / ext4 errors=remount-ro 0 1
LABEL={BOOT_LABEL} {_MOUNTED} vfat {_WHEN_USED} 0 0
"""


def system_files() -> list[Placed]:
    """What the root partition has to know about booting."""
    return [
        Placed("/etc/fstab", _FSTAB.encode()),
        Placed("/etc/kernel/cmdline", f"{_KERNEL_LINE}\n".encode()),
        Placed("/etc/kernel/entry-token", f"{_ENTRIES}\n".encode()),
    ]


def boot_files(root: Path) -> list[Placed]:
    """What the EFI system partition holds, for the system in the folder ``root``.

    ``/EFI/BOOT/BOOTAA64.EFI`` is what firmware starts without being told what to start.

    Raises:
        InputError: There is no kernel or no boot loader in it.
    """
    kernels = sorted(root.glob("boot/vmlinuz-*"))
    if not kernels or not (root / _LOADER).is_file():
        raise InputError(
            f"nothing boots {root}: it lacks a kernel, or systemd-boot",
            hint=f"to have it made anew: sudo rm -r {root}",
        )
    placed = [
        Placed("/EFI/BOOT/BOOTAA64.EFI", root / _LOADER),
        Placed(f"/EFI/systemd/{Path(_LOADER).name}", root / _LOADER),
        Placed("/loader/loader.conf", b"timeout 0\n"),
        Placed("/loader/entries.srel", b"type1\n"),
    ]
    for kernel in kernels:
        placed += _entry(kernel.name.removeprefix("vmlinuz-"), kernel)
    return placed


def _entry(version: str, kernel: Path) -> list[Placed]:
    initrd = kernel.with_name(f"initrd.img-{version}")
    folder = f"/{_ENTRIES}/{version}"
    lines = {
        "title": "Debian GNU/Linux",
        "version": version,
        "sort-key": "debian",
        "options": _KERNEL_LINE,
        "linux": f"{folder}/linux",
        "initrd": f"{folder}/{initrd.name}",
    }
    text = "".join(f"{name:10} {value}\n" for name, value in lines.items())
    return [
        Placed(lines["linux"], kernel),
        Placed(lines["initrd"], initrd),
        Placed(f"/loader/entries/{_ENTRIES}-{version}.conf", text.encode()),
    ]

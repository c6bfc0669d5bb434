"""How NVIDIA's flashing tools are called, for each board, storage and release.

After the Quick Start and Flashing Support pages of the Jetson Linux Developer Guide r36.4, r38.2
and r39.2 (https://docs.nvidia.com/jetson/archives/), and tools/kernel_flash/README_initrd_flash.txt
of the BSPs.
"""

from __future__ import annotations

import shlex

import msgspec

from edge.core.errors import InputError
from edge.core.profile import Flash
from edge.deploy.flash.bsp import Bsp

DEVICES = {"nvme": "nvme0n1p1", "sd": "mmcblk0p1", "usb": "sda1"}
"""Names of storage on the board itself, other than what is soldered to it."""

_KERNEL_FLASH = "tools/kernel_flash"
_INITRD_FLASH = "l4t_initrd_flash.sh"
_EXTERNAL_LAYOUT = f"{_KERNEL_FLASH}/flash_l4t_t234_nvme.xml"
_QSPI_LAYOUT = "bootloader/generic/cfg/flash_t234_qspi.xml"
_IMAGE_CREATOR = "tools/jetson-disk-image-creator.sh"
_IMAGE_DEVICES = {"sd": "SD", "usb": "USB"}
_NEW_TOOLS = 38
"""The release since which the initrd tool knows each board's layouts by itself."""


class Call(msgspec.Struct, frozen=True):
    """A program of the BSP, run in its folder; ``environment`` is added to ours.

    ``secret`` is the argument that nobody is shown.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str] = {}
    secret: str = ""

    def __str__(self) -> str:
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        shown = ["HIDDEN" if self.secret and one == self.secret else one for one in self.arguments]
        return " ".join([*settings, shlex.join(shown)])


def flash_board(bsp: Bsp, flash: Flash, storage: str) -> Call:
    """Write one board that is in recovery mode on USB."""
    _require_storage(flash, storage)
    if storage == "internal" and not _has_new_tools(bsp):
        return Call(("./flash.sh", flash.board, "internal"))
    options = (*_layouts(bsp, flash, storage), "--showlogs")
    return Call(
        (*_initrd_flash(bsp), *options, *_target(flash, storage)),
        _boot_order(bsp, flash, storage),
    )


def make_massflash(bsp: Bsp, flash: Flash, storage: str, count: int, module: str) -> Call:
    """Make what ``count`` boards are flashed with at once; no board is needed for it.

    Args:
        module: Board and SKU of the modules, as ``3767-0005``.
    """
    _require_storage(flash, storage)
    options = ("--no-flash", "--massflash", str(count))
    network = ("--network", "usb0")
    return Call(
        (
            *_initrd_flash(bsp),
            *options,
            *(network if _has_new_tools(bsp) or storage == "internal" else ()),
            *_layouts(bsp, flash, storage),
            *_target(flash, storage),
        ),
        {**_module(module), **_boot_order(bsp, flash, storage)},
    )


def run_massflash(bsp: Bsp, flash: Flash, count: int) -> Call:
    """Write up to ``count`` boards that are in recovery mode on USB."""
    options = ("--flash-only", "--massflash", str(count), "--network", "usb0", "--showlogs")
    return Call((*_initrd_flash(bsp), *options, flash.board))


def make_image(bsp: Bsp, flash: Flash, storage: str, image: str) -> Call:
    """Make a file that is written to a card or stick by any machine, as with ``dd``."""
    _require_storage(flash, storage)
    device = _IMAGE_DEVICES.get(storage)
    if device is None:
        raise InputError(
            f"NVIDIA's tools make no image for {storage}",
            hint="for an NVMe drive in this machine: --direct /dev/sdX",
        )
    _require(bsp, _IMAGE_CREATOR)
    return Call((f"./{_IMAGE_CREATOR}", "-o", image, "-b", flash.board, "-d", device))


def write_disk(bsp: Bsp, flash: Flash, storage: str, disk: str, module: str) -> Call:
    """Write a drive that is attached to this machine, and belongs into a board.

    Args:
        disk: Its name here, as ``sdb``.
    """
    _require_storage(flash, storage)
    if storage == "internal":
        raise InputError("what is soldered to a board is not written from here")
    return Call(
        (
            *_initrd_flash(bsp),
            *("--direct", disk),
            *("-c", _EXTERNAL_LAYOUT, "--external-device", DEVICES[storage]),
            *(flash.board, "external"),
        ),
        _module(module),
    )


def _layouts(bsp: Bsp, flash: Flash, storage: str) -> tuple[str, ...]:
    if storage == "internal":
        return ()
    device = ("--external-device", DEVICES[storage])
    if _has_new_tools(bsp):
        return device
    _require(bsp, _EXTERNAL_LAYOUT)
    layouts: tuple[str, ...] = (*device, "-c", _EXTERNAL_LAYOUT)
    if not flash.has_internal:
        _require(bsp, _QSPI_LAYOUT)
        layouts = (*layouts, "-p", f"-c {_QSPI_LAYOUT}")
    return (*layouts, "--network", "usb0")


def _target(flash: Flash, storage: str) -> tuple[str, str]:
    """A board with storage of its own would get a second system there, unless told otherwise."""
    is_beside = storage != "internal" and flash.has_internal
    return flash.board, "external" if is_beside else "internal"


def _boot_order(bsp: Bsp, flash: Flash, storage: str) -> dict[str, str]:
    """So that the system beside the board's own one is what boots."""
    overlays = {"nvme": "BootOrderNvme.dtbo", "usb": "BootOrderUsb.dtbo"}
    if not flash.has_internal or storage not in overlays:
        return {}
    return {"ADDITIONAL_DTB_OVERLAY_OPT": overlays[storage]}


def _module(module: str) -> dict[str, str]:
    board, _, sku = module.partition("-")
    if not (board.isdigit() and sku.isdigit()):
        raise InputError(
            f"{module!r} is no module",
            hint="board and SKU, as on its label: --module 3767-0005",
        )
    return {"BOARDID": board, "BOARDSKU": sku, "FAB": "300"}


def _initrd_flash(bsp: Bsp) -> tuple[str, ...]:
    for folder in ("", f"{_KERNEL_FLASH}/"):
        if bsp.has(f"{folder}{_INITRD_FLASH}"):
            return (f"./{folder}{_INITRD_FLASH}",)
    raise InputError(f"{bsp.path} has no {_INITRD_FLASH}", hint="unpack the BSP again")


def _has_new_tools(bsp: Bsp) -> bool:
    return int(bsp.version.partition(".")[0] or 0) >= _NEW_TOOLS


def _require(bsp: Bsp, name: str) -> None:
    if not bsp.has(name):
        raise InputError(f"{bsp.path} has no {name}", hint="unpack the BSP again")


def _require_storage(flash: Flash, storage: str) -> None:
    if storage not in flash.storage:
        raise InputError(
            f"{flash.board} has no {storage} storage", hint=f"one of {', '.join(flash.storage)}"
        )

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
from edge.core.versions import meets
from edge.deploy.flash.bsp import Bsp

DEVICES = {"nvme": "nvme0n1p1", "sd": "mmcblk0p1", "usb": "sda1"}
"""Names of storage on the board itself, other than what is soldered to it."""

_KERNEL_FLASH = "tools/kernel_flash"
_INITRD_FLASH = "l4t_initrd_flash.sh"
_EXTERNAL_LAYOUT = f"{_KERNEL_FLASH}/flash_l4t_t234_nvme.xml"
_QSPI_LAYOUT = "bootloader/generic/cfg/flash_t234_qspi.xml"
_IMAGE_CREATOR = "tools/jetson-disk-image-creator.sh"
_IMAGE_DEVICES = {"sd": "SD", "usb": "USB"}
LOOP = "loopN"
"""Stands for the loop device that an image is behind."""
IMAGE_BYTES = 64 * 10**9
"""Of a drive that NVIDIA's layouts are for; the system grows into a larger one."""
_LOOPS_SINCE = "39.2"
"""The release since which l4t_flash_from_kernel.sh knows how a loop device names its partitions."""
_NEW_TOOLS = 38
"""The release since which the .conf of a board without storage of its own names the layouts.

Its Quick Start adds --erase-all, which is left out: of an NVMe drive it may take longer than the
tool waits for the board, and the QSPI memory is erased in any case.
"""
_FAB_AND_CHIP = {
    "3701-0000": ("300", "D0"),
    "3701-0004": ("300", "D2"),
    "3701-0005": ("300", "D0"),
    "3701-0008": ("300", "90"),
    "3767-0000": ("300", "D3"),
    "3767-0001": ("300", "D4"),
    "3767-0003": ("300", "D5"),
    "3767-0004": ("300", "D6"),
    "3767-0005": ("300", "D5"),
    "3834-0000": ("400", "E2"),
    "3834-0008": ("401", "A0"),
}
"""What is else read from a module: without the chip, the boot processor's firmware is another's.

From jetson_board_spec.cfg of BSP r39.2 (for 3767 it has 000, which none that is sold has). Up to
FAB 400, Thor's 3834-0008 has another power supply.
"""


class Call(msgspec.Struct, frozen=True):
    """A program of the BSP, run in its folder; ``environment`` is added to ours.

    ``secret`` is the argument that nobody is shown.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str] = {}
    secret: str = ""

    def on(self, disk: str) -> Call:
        """The same with a drive in place of ``LOOP``."""
        arguments = tuple(disk if one == LOOP else one for one in self.arguments)
        return msgspec.structs.replace(self, arguments=arguments)

    def __str__(self) -> str:
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return self.without_secret(" ".join([*settings, shlex.join(self.arguments)]))

    def without_secret(self, text: str) -> str:
        """What the program says may hold it: NVIDIA's script prints the password it is given."""
        return text.replace(self.secret, "HIDDEN") if self.secret else text


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
    """Write up to ``count`` boards that are in recovery mode on USB.

    Without ``--showlogs``, which opens a terminal for each board on this machine's screen.
    """
    options = ("--flash-only", "--massflash", str(count), "--network", "usb0")
    return Call((*_initrd_flash(bsp), *options, flash.board))


def make_image(bsp: Bsp, flash: Flash, storage: str, image: str, module: str) -> Call:
    """Make a file that is written to a card, stick or drive by any machine, as with ``dd``.

    For NVMe it is a call for ``LOOP``: the file is to be a drive of this machine meanwhile.
    """
    _require_storage(flash, storage)
    if storage == "nvme" and meets(bsp.version, f">={_LOOPS_SINCE}"):
        return write_disk(bsp, flash, storage, LOOP, module)
    device = _IMAGE_DEVICES.get(storage)
    if device is None:
        raise InputError(
            f"the tools of L4T {bsp.version} make no image for {storage}",
            hint=f"--direct sdX writes a drive that is attached here; for NVMe, L4T {_LOOPS_SINCE} "
            "makes images",
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
    _require(bsp, _EXTERNAL_LAYOUT)
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
    if _has_new_tools(bsp) and not flash.has_internal:
        return device
    _require(bsp, _EXTERNAL_LAYOUT)
    layouts: tuple[str, ...] = (*device, "-c", _EXTERNAL_LAYOUT)
    if _has_new_tools(bsp):
        return layouts
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
    fab, chip = _FAB_AND_CHIP.get(module, ("300", ""))
    named = {"BOARDID": board, "BOARDSKU": sku, "FAB": fab}
    return {**named, "CHIP_SKU": f"00:00:00:{chip}"} if chip else named


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

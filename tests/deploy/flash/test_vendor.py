"""How NVIDIA's tools are called: the lines of its documentation, for each board and storage."""

from __future__ import annotations

import pytest

from edge.core.errors import InputError
from edge.core.profile import load_profile
from edge.deploy.flash import vendor
from edge.deploy.flash.bsp import Bsp

from .conftest import BOARDS, MakeBsp

RELEASES = {"": "36.4.4", "jp7": "39.2.1"}

_NANO = (
    "./tools/kernel_flash/l4t_initrd_flash.sh --external-device {device} "
    "-c tools/kernel_flash/flash_l4t_t234_nvme.xml "
    "-p '-c bootloader/generic/cfg/flash_t234_qspi.xml' --network usb0 --showlogs {board} internal"
)
_AGX = (
    "ADDITIONAL_DTB_OVERLAY_OPT=BootOrderNvme.dtbo ./tools/kernel_flash/l4t_initrd_flash.sh "
    "--external-device nvme0n1p1 -c tools/kernel_flash/flash_l4t_t234_nvme.xml --network usb0 "
    "--showlogs jetson-agx-orin-devkit external"
)
DOCUMENTED = {
    ("jetson-orin-nano-8gb-super", "nvme"): _NANO.format(
        device="nvme0n1p1", board="jetson-orin-nano-devkit-super"
    ),
    ("jetson-orin-nano-8gb", "sd"): _NANO.format(
        device="mmcblk0p1", board="jetson-orin-nano-devkit"
    ),
    ("jetson-orin-nx-16gb", "nvme"): _NANO.format(
        device="nvme0n1p1", board="jetson-orin-nano-devkit"
    ),
    ("jetson-agx-orin-64gb", "internal"): "./flash.sh jetson-agx-orin-devkit internal",
    ("jetson-agx-orin-64gb", "nvme"): _AGX,
    ("jetson-agx-thor", "internal"): (
        "./l4t_initrd_flash.sh --showlogs jetson-agx-thor-devkit internal"
    ),
    ("jetson-orin-nano-8gb-jp7", "nvme"): (
        "./l4t_initrd_flash.sh --external-device nvme0n1p1 --showlogs "
        "jetson-orin-nano-devkit internal"
    ),
    # Unlike the boards without storage of their own, its .conf names no layout (BSP r39.2).
    ("jetson-agx-orin-64gb-jp7", "nvme"): (
        "ADDITIONAL_DTB_OVERLAY_OPT=BootOrderNvme.dtbo ./l4t_initrd_flash.sh "
        "--external-device nvme0n1p1 -c tools/kernel_flash/flash_l4t_t234_nvme.xml --showlogs "
        "jetson-agx-orin-devkit external"
    ),
    ("jetson-orin-nx-8gb", "usb"): _NANO.format(device="sda1", board="jetson-orin-nano-devkit"),
}


def _bsp(make_bsp: MakeBsp, name: str) -> Bsp:
    is_new = name.endswith("-jp7") or "thor" in name
    return Bsp(make_bsp("39.2.1", "3.12") if is_new else make_bsp())


@pytest.mark.parametrize(("name", "storage"), DOCUMENTED)
def test_call_is_the_documented_one(make_bsp: MakeBsp, name: str, storage: str) -> None:
    call = vendor.flash_board(_bsp(make_bsp, name), load_profile(name).flash, storage)
    assert str(call) == DOCUMENTED[name, storage]


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_can_be_flashed_to_all_its_storage(make_bsp: MakeBsp, name: str) -> None:
    flash, bsp = load_profile(name).flash, _bsp(make_bsp, name)
    assert flash.storage
    for storage in flash.storage:
        arguments = vendor.flash_board(bsp, flash, storage).arguments
        assert flash.board in arguments
        assert (bsp.path / arguments[0]).is_file()
        device = vendor.DEVICES.get(storage)
        assert (device in arguments) == (storage != "internal")
    assert bsp.problems(load_profile(name)) == []


def test_massflash_is_made_without_a_board_and_run_with_many(make_bsp: MakeBsp) -> None:
    bsp, flash = Bsp(make_bsp()), load_profile("jetson-orin-nx-16gb").flash
    made = vendor.make_massflash(bsp, flash, "nvme", 5, flash.module)
    assert made.environment == {
        "BOARDID": "3767",
        "BOARDSKU": "0000",
        "FAB": "300",
        "CHIP_SKU": "00:00:00:D3",
    }
    assert made.arguments[1:4] == ("--no-flash", "--massflash", "5")
    assert made.arguments.count("--network") == 1
    run = vendor.run_massflash(bsp, flash, 5)
    assert run.arguments[1:4] == ("--flash-only", "--massflash", "5")
    assert run.environment == {}
    assert "--showlogs" not in run.arguments, "it opens a terminal for each board"


@pytest.mark.parametrize("name", BOARDS)
def test_chip_of_each_module_is_told_where_none_is_read(make_bsp: MakeBsp, name: str) -> None:
    flash, bsp = load_profile(name).flash, _bsp(make_bsp, name)
    made = vendor.make_massflash(bsp, flash, flash.storage[0], 5, flash.module)
    assert made.environment["CHIP_SKU"].startswith("00:00:00:")
    assert (made.environment["FAB"] > "400") == (flash.module == "3834-0008")


def test_module_that_is_not_known_is_named_as_it_is(make_bsp: MakeBsp) -> None:
    flash = load_profile("jetson-orin-nx-16gb").flash
    made = vendor.make_massflash(Bsp(make_bsp()), flash, "nvme", 2, "3767-0009")
    assert made.environment == {"BOARDID": "3767", "BOARDSKU": "0009", "FAB": "300"}


def test_images_are_for_cards_and_sticks(make_bsp: MakeBsp) -> None:
    bsp, flash = Bsp(make_bsp()), load_profile("jetson-orin-nano-8gb").flash
    assert str(vendor.make_image(bsp, flash, "sd", "/x.img", flash.module)) == (
        "./tools/jetson-disk-image-creator.sh -o /x.img -b jetson-orin-nano-devkit -d SD"
    )
    with pytest.raises(InputError, match=r"L4T 36\.4\.4 make no image for nvme") as caught:
        vendor.make_image(bsp, flash, "nvme", "/x.img", flash.module)
    assert "--direct" in caught.value.hint


def test_image_for_nvme_is_a_drive_while_it_is_written(make_bsp: MakeBsp) -> None:
    flash = load_profile("jetson-orin-nano-8gb-jp7").flash
    call = vendor.make_image(Bsp(make_bsp("39.2.1")), flash, "nvme", "/x.img", flash.module)
    assert call.on("loop7").arguments[1:3] == ("--direct", "loop7")
    assert call.on("loop7").arguments[-2:] == ("jetson-orin-nano-devkit", "external")


def test_drive_in_this_machine_is_written_for_a_board(make_bsp: MakeBsp) -> None:
    bsp, flash = Bsp(make_bsp()), load_profile("jetson-orin-nano-8gb").flash
    call = vendor.write_disk(bsp, flash, "nvme", "sdb", "3767-0003")
    assert call.arguments[1:3] == ("--direct", "sdb")
    assert call.arguments[-2:] == ("jetson-orin-nano-devkit", "external")
    assert call.environment["BOARDSKU"] == "0003"


def test_storage_that_a_board_has_not_is_refused(make_bsp: MakeBsp) -> None:
    flash = load_profile("jetson-orin-nx-16gb").flash
    with pytest.raises(InputError, match="no sd storage") as caught:
        vendor.flash_board(Bsp(make_bsp()), flash, "sd")
    assert caught.value.hint == "one of nvme, usb"


@pytest.mark.parametrize("module", ["", "3767", "orin-nano", "3767-"])
def test_module_that_is_none_is_refused(make_bsp: MakeBsp, module: str) -> None:
    flash = load_profile("jetson-orin-nx-16gb").flash
    with pytest.raises(InputError, match="is no module"):
        vendor.make_massflash(Bsp(make_bsp()), flash, "nvme", 2, module)


def test_bsp_that_lacks_a_layout_says_which(make_bsp: MakeBsp) -> None:
    folder = make_bsp()
    (folder / "bootloader/generic/cfg/flash_t234_qspi.xml").unlink()
    flash = load_profile("jetson-orin-nx-16gb").flash
    with pytest.raises(InputError, match=r"flash_t234_qspi\.xml"):
        vendor.flash_board(Bsp(folder), flash, "nvme")

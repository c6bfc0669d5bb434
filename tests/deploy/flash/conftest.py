"""A ``Linux_for_Tegra`` whose scripts only record how they were called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.profile import load_profile, profile_names

BOARDS = [name for name in profile_names() if load_profile(name).flash.tool == "l4t"]

_RECORD = """#!/bin/sh
echo "USER=$USER BOARDID=$BOARDID BOARDSKU=$BOARDSKU $0 $*" >> calls
[ ! -f say ] || cat say
[ ! -f fail ] || exit "$(cat fail)"
"""
# In the order in which NVIDIA's does it; there are releases that touch nvautoconfig, and others.
_CREATE_USER = """#!/bin/sh
set -e
echo "$0 -u $2 -n $6 $7" >> calls
echo "Creating: Username - $2, Password - $4, Autologin - false"
if ! grep -q "^$2:" rootfs/etc/passwd; then
  echo "$2:x:1000:1000::/home/$2:/bin/bash" >> rootfs/etc/passwd
  echo "$2:\\$1\\$salt\\$$4:20000:0:99999:7:::" >> rootfs/etc/shadow
  mkdir -p "rootfs/home/$2"
fi
[ ! -f fail-user ] || exit 1
rm -f rootfs/etc/systemd/system/default.target
mkdir -p rootfs/etc/nv && touch rootfs/etc/nv/nvautoconfig
echo "$6" > rootfs/etc/hostname
"""
WIZARD = "/lib/systemd/system/nv-oem-config.target"

MakeBsp = Callable[..., Path]


@pytest.fixture
def make_bsp(tmp_path: Path) -> MakeBsp:
    def make(version: str = "36.4.4", python: str = "3.10") -> Path:
        folder = tmp_path / "Linux_for_Tegra"
        branch, major, minor = version.split(".")
        text = f"# of the BSP\nBSP_BRANCH={branch}\nBSP_MAJOR={major}\nBSP_MINOR={minor}\n"
        files = {
            "nv_tegra/bsp_version": text,
            "rootfs/etc/os-release": "ID=ubuntu\n",
            "rootfs/etc/nv_tegra_release": f"# R{branch} (release), REVISION: {major}.{minor}, X",
            "rootfs/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
            "rootfs/etc/shadow": "root:*:20000:0:99999:7:::\n",
            "rootfs/etc/hostname": "tegra-ubuntu\n",
            "tools/kernel_flash/flash_l4t_t234_nvme.xml": "<partition_layout/>",
            "bootloader/generic/cfg/flash_t234_qspi.xml": "<partition_layout/>",
            **{f"{load_profile(name).flash.board}.conf": "" for name in BOARDS},
        }
        scripts = ["flash.sh", "tools/kernel_flash/l4t_initrd_flash.sh"]
        scripts += ["tools/jetson-disk-image-creator.sh"]
        if int(branch) >= 38:
            scripts.append("l4t_initrd_flash.sh")
        for name, content in {**files, **dict.fromkeys(scripts, _RECORD)}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        (folder / "tools/l4t_create_default_user.sh").write_text(_CREATE_USER)
        for name in (*scripts, "tools/l4t_create_default_user.sh"):
            (folder / name).chmod(0o755)
        (folder / "rootfs/etc/systemd/system").mkdir(parents=True)
        (folder / "rootfs/etc/systemd/system/default.target").symlink_to(WIZARD)
        (folder / "rootfs/usr/bin").mkdir(parents=True)
        (folder / "rootfs/usr/bin/python3").symlink_to(f"python{python}")
        return folder

    return make

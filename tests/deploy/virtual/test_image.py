"""What an image holds: read back with other tools than those that made it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge.cli._main import EXIT_USAGE, main
from edge.core.errors import InputError
from edge.deploy.overlay import Placed
from edge.deploy.virtual import image as image_module
from edge.deploy.virtual.boot import boot_files
from edge.deploy.virtual.image import make_image, require_disk
from edge.deploy.virtual.tools import environment

_TOOLS = ("mkfs.ext4", "debugfs", "sfdisk", "mformat", "mcopy")
_missing = [tool for tool in _TOOLS if shutil.which(tool, path=environment()["PATH"]) is None]
makes_images = pytest.mark.skipif(
    bool(_missing) or os.geteuid() != 0,
    reason=f"root makes images, with {', '.join(_missing) or 'its rights'}",
)

SIZE = 320 << 20
LOADER = "usr/lib/systemd/boot/efi/systemd-bootaa64.efi"
NEW, OLD = "6.1.0-50", "6.1.0-9"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A root folder that nothing could run, but of the right shape."""
    root = tmp_path / "base"
    loader = root / LOADER
    for folder in (root / "boot/efi", loader.parent):
        folder.mkdir(parents=True)
    loader.write_bytes(b"loader")
    for version in (OLD, NEW):
        (root / f"boot/vmlinuz-{version}").write_bytes(b"kernel " + version.encode())
        (root / f"boot/initrd.img-{version}").write_bytes(b"disk " + version.encode())
    return root


def test_every_kernel_has_an_entry_that_names_its_files(base: Path) -> None:
    placed = {one.path: one.contents for one in boot_files(base)}
    assert (
        placed["/EFI/BOOT/BOOTAA64.EFI"] == base / "usr/lib/systemd/boot/efi/systemd-bootaa64.efi"
    )
    for version in (OLD, NEW):
        text = placed[f"/loader/entries/edge-{version}.conf"]
        assert isinstance(text, bytes)
        entry = dict(line.split(maxsplit=1) for line in text.decode().splitlines())
        assert entry["version"] == version
        assert placed[entry["linux"]] == base / f"boot/vmlinuz-{version}"
        assert placed[entry["initrd"]] == base / f"boot/initrd.img-{version}"
        assert "root=LABEL=edge-root" in entry["options"]


@pytest.mark.parametrize("lacking", ["boot/vmlinuz-*", "usr/lib/systemd/boot/efi/*"])
def test_root_that_nothing_boots_is_refused(base: Path, lacking: str) -> None:
    for path in base.glob(lacking):
        path.unlink()
    with pytest.raises(InputError, match="nothing boots"):
        boot_files(base)


@makes_images
def test_image_is_a_disk_that_firmware_finds_a_loader_on(base: Path, tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    make_image(base, [], image, SIZE)
    require_disk(image)
    table = json.loads(_told(["sfdisk", "--json", str(image)]))["partitiontable"]
    boot, root = table["partitions"]
    assert table["label"] == "gpt"
    assert boot["type"] == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    assert root["type"] == "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"
    assert "No errors" in _told(["sfdisk", "--verify", str(image)])
    start = boot["start"] * table["sectorsize"]
    for name, contents in {
        "EFI/BOOT/BOOTAA64.EFI": b"loader",
        f"edge/{NEW}/linux": b"kernel " + NEW.encode(),
        f"edge/{OLD}/initrd.img-{OLD}": b"disk " + OLD.encode(),
    }.items():
        _told(["mcopy", "-n", "-i", f"{image}@@{start}", f"::{name}", str(tmp_path / "read")])
        assert (tmp_path / "read").read_bytes() == contents
        (tmp_path / "read").unlink()


@makes_images
def test_image_holds_the_base_and_what_is_laid_over_it(base: Path, tmp_path: Path) -> None:
    image, root = tmp_path / "device.img", tmp_path / "root.img"
    make_image(base, [Placed("/etc/edge/x", b"over", 0o600)], image, SIZE)
    table = json.loads(_told(["sfdisk", "--json", str(image)]))["partitiontable"]
    part = table["partitions"][1]
    with open(image, "rb") as disk:
        disk.seek(part["start"] * table["sectorsize"])
        root.write_bytes(disk.read(part["size"] * table["sectorsize"]))
    _told(["fsck.ext4", "-n", "-f", str(root)])
    for path, contents in {"/etc/edge/x": "over", "/etc/kernel/entry-token": "edge\n"}.items():
        assert _told(["debugfs", "-R", f"cat {path}", str(root)]) == contents
    assert not (base / "etc").exists(), "the base is as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "device.img", "root.img"]


@makes_images
@pytest.mark.parametrize("size_bytes", [4 << 20, 260 << 20])
def test_image_that_is_too_small_leaves_the_former_one(
    base: Path, tmp_path: Path, size_bytes: int
) -> None:
    image = tmp_path / "device.img"
    image.write_bytes(b"former")
    (base / "large").write_bytes(os.urandom(8 << 20))
    with pytest.raises(InputError, match="too small"):
        make_image(base, [], image, size_bytes)
    assert image.read_bytes() == b"former"


@makes_images
def test_interrupted_image_leaves_the_former_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    image = tmp_path / "device.img"
    image.write_bytes(b"former")
    monkeypatch.setattr(image_module, "_fill_root", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_image(base, [], image, SIZE)
    assert image.read_bytes() == b"former"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "device.img"]


def test_file_that_is_no_disk_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    image.write_bytes(b"nothing to boot" * 1000)
    with pytest.raises(InputError, match="no disk that boots") as caught:
        require_disk(image)
    assert "edge flash" in caught.value.hint


def _told(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    return done.stdout


def test_command_refuses_a_size_that_is_none_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = ["-o", str(tmp_path / "x.img"), "--size", "lots"]
    assert main(["flash", "x.edge", "--profile", "virtual-arm64", *image]) == EXIT_USAGE
    assert "'lots' is no size" in capsys.readouterr().err

"""Which files make a device serve, whichever way they get there: SSH, a root folder, an image."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge.deploy.ondevice import layout as places
from edge.deploy.ondevice.layout import Layout
from edge.deploy.program import program
from edge.deploy.release import Contents, Parcel

UNITS = (places.SERVICE, places.HEAL, places.FIRST_BOOT)
_WANTS = "multi-user.target.wants"


class Placed(msgspec.Struct, frozen=True):
    """A file of the device, owned by root: its contents, or where it is a link, its ``target``."""

    path: str
    contents: Contents = b""
    mode: int = 0o644
    target: str = ""


def unit(name: str, layout: Layout) -> bytes:
    """The text of a systemd unit for a device with this layout."""
    text = (Path(__file__).parent / "units" / name).read_text()
    return text.replace("@base@", layout.base).encode()


def system_files(layout: Layout) -> list[Placed]:
    """The units, and the program that heals and installs: small, and the same for any release."""
    units = [Placed(f"{layout.units}/{name}", unit(name, layout)) for name in UNITS]
    return [Placed(layout.program, program()), *units]


def overlay(parcel: Parcel, layout: Layout | None = None) -> list[Placed]:
    """All that a system needs to install a release at its first boot, with nothing from a network.

    Nothing secret is in it, unless in the settings. ``edge-first-boot.service`` does what a
    deployment over SSH does, by the same program.
    """
    layout = layout or Layout()
    files = [
        Placed(layout.file(sha256), parcel.contents[sha256], _mode(parcel, sha256))
        for sha256 in parcel.release.parts()
    ]
    enabled = [Placed(f"{layout.units}/{_WANTS}/{name}", target=f"../{name}") for name in UNITS]
    release = Placed(layout.first_boot, parcel.release.document())
    return [*system_files(layout), *files, release, *enabled]


def lay(placed: Iterable[Placed], root: Path) -> None:
    """Put files into a folder that holds a device's file system; a second time changes nothing."""
    for one in placed:
        path = root / one.path.lstrip("/")
        _make_folder(path.parent)
        if one.target:
            path.unlink(missing_ok=True)
            path.symlink_to(one.target)
            continue
        partial = beside(path)
        if isinstance(one.contents, Path):
            shutil.copyfile(one.contents, partial)
        else:
            partial.write_bytes(one.contents)
        partial.chmod(one.mode)
        os.replace(partial, path)


def _make_folder(folder: Path) -> None:
    """With the modes that a device needs, whatever this user's umask is."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def beside(path: Path) -> Path:
    """Where a file is until it is whole."""
    return path.with_name(f"{path.name}.partial")


def _mode(parcel: Parcel, sha256: str) -> int:
    return 0o600 if sha256 == parcel.release.settings.sha256 else 0o644

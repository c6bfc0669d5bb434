"""The tools that make an image: which packages have them, and where they are found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from edge.core.errors import UnavailableError

PACKAGES = {
    "debootstrap": "debootstrap",
    "mkfs.ext4": "e2fsprogs",
    "sfdisk": "fdisk",
    "mformat": "mtools",
    "mcopy": "mtools",
    "unshare": "util-linux",
}
"""Tool -> Debian package."""


def require(tools: Iterable[str] = PACKAGES) -> None:
    """
    Raises:
        UnavailableError: One is not installed.
    """
    path = environment()["PATH"]
    missing = sorted({PACKAGES[tool] for tool in tools if not shutil.which(tool, path=path)})
    if missing:
        raise UnavailableError(
            f"to make an image, this machine lacks {', '.join(missing)}",
            hint=f"sudo apt-get install {' '.join(missing)}",
        )


def environment() -> dict[str, str]:
    """This process's, with the folders that only root has in its path."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}

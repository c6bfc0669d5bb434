"""Files and links that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import Any


def sync_folder(folder: str) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: str, data: bytes, mode: int = 0o644) -> None:
    """Put a file in the place of what is there."""
    beside = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)  # whatever the umask is
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    os.replace(beside, path)
    sync_folder(os.path.dirname(path))


def link(path: str, target: str) -> None:
    """Point a link elsewhere, in one step."""
    beside = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    os.symlink(target, beside)
    os.replace(beside, path)
    sync_folder(os.path.dirname(path))


def remove(path: str) -> None:
    """Take a name away, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        sync_folder(os.path.dirname(path))


def remove_tree(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def read_json(path: str) -> Any:
    """What a file holds; None if it is not there or is not whole."""
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read())
    except (OSError, ValueError):
        return None


def names_in(folder: str) -> list[str]:
    """Sorted; none if there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()

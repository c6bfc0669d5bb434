"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside ``path`` that takes its place when the block ends without an error."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(beside, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def move(source: Path, target: Path) -> None:
    """Give a file that is safe on the disk another name on the same disk, over what has it."""
    if not target.parent.is_dir():
        target.parent.mkdir()
        sync_folder(target.parent.parent)
    os.replace(source, target)
    sync_folder(target.parent)


def sha256_of(path: Path) -> str:
    """Of a file's contents, in hexadecimal; empty where it can't be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while data := stream.read(1024 * 1024):
                digest.update(data)
    except OSError:
        return ""
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes and threads out; the lock ends with its holder, however it ends."""
    with open(path, "wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield

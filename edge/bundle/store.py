"""Extracted variants on this machine's disk, by what they hold; shared between processes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from edge.core.durable import locked, sync_folder
from edge.core.errors import UnavailableError
from edge.core.manifest import FileEntry


def keep(files: Sequence[FileEntry], copy: Callable[[str, BinaryIO], None], cache: Path) -> Path:
    """The folder that holds ``files``; they are copied into the cache if it has them not yet.

    Args:
        copy: Writes the file at a path to a stream, and raises if its contents are not right.
    Raises:
        UnavailableError: The cache can't be written.
    """
    variants = cache / "variants"
    folder = variants / _key(files)
    if _is_complete(folder, files):  # before the lock: the cache may be read-only by now
        return folder
    try:
        variants.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(variants / f".{folder.name}.lock"):
            if not _is_complete(folder, files):
                _extract(files, copy, folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UnavailableError(
            f"can not extract the model to {folder}: {error.strerror}",
            hint="free some space there" if full else "set XDG_CACHE_HOME to a writable folder",
        ) from error
    return folder


def _key(files: Sequence[FileEntry]) -> str:
    lines = sorted(f"{entry.sha256} {entry.path}\n" for entry in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_complete(folder: Path, files: Sequence[FileEntry]) -> bool:
    """Whether an extraction ended here. Its digests were checked then; now only sizes are."""
    try:
        return folder.is_dir() and all(
            (folder / entry.path).stat().st_size == entry.size_bytes for entry in files
        )
    except OSError:
        return False


def _extract(
    files: Sequence[FileEntry], copy: Callable[[str, BinaryIO], None], folder: Path
) -> None:
    # Only the holder of the lock writes here: what is there was left by one that was killed.
    partial = folder.with_name(f".{folder.name}.partial")
    _remove(partial)
    try:
        partial.mkdir()
        for entry in files:
            target = partial / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as stream:
                copy(entry.path, stream)
                stream.flush()
                os.fchmod(stream.fileno(), 0o444)
                os.fsync(stream.fileno())
        for inner in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            sync_folder(inner)
        _remove(folder)
        os.rename(partial, folder)
        sync_folder(folder.parent)
    except BaseException:
        _remove(partial)
        raise


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)

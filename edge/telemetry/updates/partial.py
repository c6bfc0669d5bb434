"""A file that is still coming, known by what it has to hold in the end."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edge.core.errors import InputError, UnavailableError

FOLDER = ".updates"
"""In the served folder, so that a bundle moves from here in one step; it holds no models."""

_SUFFIX = ".partial"
_MOST_KEPT = 4
_READ_BYTES = 1024 * 1024


class Room:
    """How much of the disk what is coming may take.

    Args:
        max_bytes: Of one file.
        keep_free_bytes: Of the disk, for all else.
    """

    def __init__(self, folder: Path, max_bytes: int, keep_free_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._keep_free_bytes = keep_free_bytes

    def check(self, size_bytes: int, more_bytes: int) -> None:
        """Whether a file may have ``size_bytes``, of which ``more_bytes`` are still to come.

        Raises:
            InputError: It is larger than any may be.
            UnavailableError: The disk has not so much to give now.
        """
        if size_bytes > self._max_bytes:
            raise InputError(
                f"the bundle has {size_bytes:,} bytes, at most {self._max_bytes:,} are taken",
                hint="raise max_bytes in [update] of edge.toml there",
            )
        disk = os.statvfs(self._folder)
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes - more_bytes < self._keep_free_bytes:
            raise UnavailableError(
                f"the disk has {free_bytes:,} bytes free, of which {self._keep_free_bytes:,} stay "
                f"free; {more_bytes:,} are to come",
                hint=f"make room on the disk of {self._folder}",
            )


class Partial:
    """Used by one thread between ``with`` and its end; no other process has it then.

    It stays when the block ends, unless it was dropped or moved away: whoever wants the same
    contents goes on with it.
    """

    def __init__(self, folder: Path, sha256: str) -> None:
        self.sha256 = sha256
        self.path = folder / f"{sha256}{_SUFFIX}"
        self.notes_path = folder / f"{sha256}.json"
        self._stream: BinaryIO | None = None

    @property
    def stream(self) -> BinaryIO:
        assert self._stream is not None
        return self._stream

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.stream.fileno()).st_size

    def __enter__(self) -> Partial:
        """Raises ``UnavailableError`` where it can't be had, or another update has it."""
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            clear(self.path.parent, but=self.path)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._stream = open(descriptor, "r+b", buffering=0)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.stream.close()
            raise UnavailableError(
                "another update brings the same bundle now", hint="wait for that one"
            ) from error
        except OSError as error:
            raise UnavailableError(f"can not keep {self.path}: {error.strerror}") from error
        _drop_unfinished(self.notes_path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stream.close()

    def write(self, data: bytes, offset: int) -> None:
        """Raises ``UnavailableError`` where the disk takes it not."""
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self.stream.fileno(), data[written:], offset + written)
        except OSError as error:
            raise UnavailableError(f"can not write {self.path}: {error.strerror}") from error

    def truncate(self, size_bytes: int = 0) -> None:
        os.ftruncate(self.stream.fileno(), size_bytes)

    def sync(self) -> None:
        """Make what was written survive a power cut.

        Raises:
            UnavailableError: The disk failed.
        """
        try:
            os.fdatasync(self.stream.fileno())
        except OSError as error:
            raise UnavailableError(f"can not write {self.path}: {error.strerror}") from error

    def digest(self) -> str:
        """SHA-256 of what is there, read from the disk."""
        digest, offset = hashlib.sha256(), 0
        while data := os.pread(self.stream.fileno(), _READ_BYTES, offset):
            digest.update(data)
            offset += len(data)
        return digest.hexdigest()

    def drop(self) -> None:
        """Keep nothing of it."""
        for path in (self.path, self.notes_path):
            path.unlink(missing_ok=True)


def clear(folder: Path, but: Path) -> None:
    """Of what was begun and never came whole, keep only the newest."""
    found = sorted(
        (path for path in folder.glob(f"*{_SUFFIX}") if path != but),
        key=lambda path: path.stat().st_mtime,
    )
    for path in found[: max(0, len(found) - _MOST_KEPT + 1)]:
        with open(path, "rb") as stream, contextlib.suppress(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)
            _drop_unfinished(path.with_suffix(".json"))


def _drop_unfinished(path: Path) -> None:
    """What ``replacing`` was killed amid."""
    for beside in path.parent.glob(f".{path.name}.*"):
        beside.unlink()

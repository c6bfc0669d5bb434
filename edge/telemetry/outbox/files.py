"""The file layer under the outbox: one flat folder, and what it costs the flash."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol

import msgspec

from edge.core.durable import sync_folder
from edge.core.errors import UnavailableError

PAGE_BYTES = 4096  # what flash and file systems write at the least
LOCK = ".lock"


class Wear(msgspec.Struct):
    """What was written so far.

    ``page_bytes`` counts each page that a sync had to write, and one for each sync of the folder:
    what reaches a device is more, by the file system's journal and the flash's own tidying.
    """

    bytes: int = 0
    page_bytes: int = 0
    syncs: int = 0


class Files(Protocol):
    """Files of one folder, by name. Every call that touches the disk may raise OSError."""

    wear: Wear

    def sizes(self) -> dict[str, int]: ...
    def read(self, name: str) -> bytes: ...
    def create(self, name: str) -> None: ...
    def append(self, name: str, data: bytes) -> None: ...
    def sync(self, name: str) -> None: ...
    def truncate(self, name: str, size: int) -> None: ...
    def close(self, name: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, name: str) -> None: ...
    def sync_folder(self) -> None: ...
    def free_bytes(self) -> int: ...
    def release(self) -> None: ...


class DiskFiles:
    """A folder that this process has for itself.

    Raises:
        UnavailableError: It can't be made or written, or another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self.wear = Wear()
        self._folder = folder
        self._open: dict[str, int] = {}
        self._unsynced: dict[str, tuple[int, int]] = {}  # first and last byte since the last sync
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnavailableError(
                f"{folder} can not hold an outbox: {error.strerror}",
                hint="name another folder with EDGE_MQTT_OUTBOX",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise UnavailableError(
                f"another process has the outbox in {folder}",
                hint="give each its own folder with EDGE_MQTT_OUTBOX, or its own EDGE_MQTT_DEVICE",
            ) from error

    def sizes(self) -> dict[str, int]:
        with os.scandir(self._folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.name != LOCK}

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def create(self, name: str) -> None:
        """An empty file, open for appending; one of that name is replaced."""
        self.close(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._open[name] = os.open(self._folder / name, flags, 0o600)
        self._unsynced[name] = (0, 0)

    def append(self, name: str, data: bytes) -> None:
        """Write at the end; after an error, part of ``data`` may be there."""
        descriptor = self._open[name]
        left = memoryview(data)
        while left:
            written = os.write(descriptor, left)
            self.wear.bytes += written
            first, last = self._unsynced[name]
            self._unsynced[name] = (first, last + written)
            left = left[written:]

    def sync(self, name: str) -> None:
        os.fdatasync(self._open[name])
        first, last = self._unsynced[name]
        pages = -(-last // PAGE_BYTES) - first // PAGE_BYTES if last > first else 0
        self.wear.page_bytes += pages * PAGE_BYTES
        self.wear.syncs += 1
        self._unsynced[name] = (last, last)

    def truncate(self, name: str, size: int) -> None:
        os.ftruncate(self._open[name], size)
        self._unsynced[name] = (min(self._unsynced[name][0], size), size)

    def close(self, name: str) -> None:
        descriptor = self._open.pop(name, None)
        self._unsynced.pop(name, None)
        if descriptor is not None:
            with contextlib.suppress(OSError):  # what counts was synced
                os.close(descriptor)

    def rename(self, old: str, new: str) -> None:
        os.replace(self._folder / old, self._folder / new)

    def unlink(self, name: str) -> None:
        self.close(name)
        (self._folder / name).unlink(missing_ok=True)

    def sync_folder(self) -> None:
        sync_folder(self._folder)
        self.wear.page_bytes += PAGE_BYTES
        self.wear.syncs += 1

    def free_bytes(self) -> int:
        """What is free to a user who is not root."""
        state = os.statvfs(self._folder)
        return state.f_bavail * state.f_frsize

    def release(self) -> None:
        """Close all, and let another process have the folder."""
        for name in list(self._open):
            self.close(name)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

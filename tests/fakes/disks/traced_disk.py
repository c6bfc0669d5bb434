"""Real files whose every change is a step of a disk that fails, or whose power goes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from faulty_disk import FaultyFiles

from edge.core import durable


class TracedDisk:
    """What ``edge.core.durable`` and ``Path.unlink`` do in ``folder`` goes by ``files`` first.

    The folder holds what the running program sees, ``files`` what is safe of it.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.files = FaultyFiles()
        self._descriptors: dict[int, str] = {}
        self._unlink = Path.unlink
        calls = {name: getattr(os, name) for name in ("open", "close", "O_RDONLY")}
        own = SimpleNamespace(fsync=self._fsync, replace=self._replace, **calls)
        monkeypatch.setattr(durable, "os", own)
        monkeypatch.setattr(durable, "open", self._open, raising=False)

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if path.parent == folder and path.exists():
                self.files.unlink(path.name)
            self._unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)

    def start(self, contents: dict[str, bytes], cut_at: int = -1) -> None:
        """Be a disk with nothing but these files, whose power goes at that step."""
        self.files = FaultyFiles(contents, cut_at)
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            self._unlink(path)
        for name, data in contents.items():
            (self.folder / name).write_bytes(data)

    @contextlib.contextmanager
    def _open(self, path: Path, mode: str) -> Iterator[Any]:
        self.files.create(path.name)
        with open(path, mode) as stream:
            self._descriptors[stream.fileno()] = path.name
            yield _Stream(stream, self.files, path.name)

    def _fsync(self, descriptor: int) -> None:
        name = self._descriptors.pop(descriptor, None)
        if name is None:
            self.files.sync_folder()
        else:
            self.files.sync(name)

    def _replace(self, old: Path, new: Path) -> None:
        self.files.rename(old.name, new.name)
        os.replace(old, new)


class _Stream:
    def __init__(self, stream: BinaryIO, files: FaultyFiles, name: str) -> None:
        self._stream = stream
        self._files = files
        self._name = name
        self.flush = stream.flush
        self.fileno = stream.fileno

    def write(self, data: bytes) -> None:
        self._files.append(self._name, data)
        self._stream.write(data)

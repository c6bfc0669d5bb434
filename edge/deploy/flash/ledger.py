"""What was changed in a root folder, so that it can be taken back."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from edge.core.durable import replacing
from edge.core.errors import InputError
from edge.deploy.overlay import Placed, beside, lay

_RECORD = "before.json"


class _Before(msgspec.Struct, frozen=True):
    """How a path was: ``copy`` names the copy of what was there, empty where nothing was.

    ``laid`` are files of ours, ``kept`` those that others change; a ``folder`` was made on the way,
    and goes if nothing else is in it by then.
    """

    path: str
    kind: Literal["laid", "kept", "folder"]
    copy: str = ""


class Ledger:
    """Keeps the originals of what changes below ``root`` in ``folder``, which is outside of it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder
        self._entries = {entry.path: entry for entry in self._read()}

    def lay(self, placed: Iterable[Placed]) -> None:
        """Put files in place; what an earlier call put there and this one does not is taken back.

        Raises:
            InputError: A folder on the way is a link that leads out of the root.
        """
        wanted = list(placed)
        former = {path for path, entry in self._entries.items() if entry.kind == "laid"}
        stale = former - {one.path for one in wanted}
        self._remember([one.path for one in wanted], "laid")
        self._take_back(stale)
        lay(wanted, self._root)

    def keep(self, paths: Iterable[str]) -> None:
        """Remember how these are now, unless that is known from before."""
        self._remember(list(paths), "kept")

    def _remember(self, paths: list[str], kind: Literal["laid", "kept"]) -> None:
        new = [path for path in paths if path not in self._entries]
        for path in new:
            self._require_inside(path)
        self._folder.mkdir(exist_ok=True)
        for path in new:
            for folder in self._missing_folders(path):
                self._entries[folder] = _Before(folder, "folder")
            copy = ""
            if os.path.lexists(self._at(path)):
                copy = hashlib.sha256(path.encode()).hexdigest()
                _copy(self._at(path), self._folder / copy)
            self._entries[path] = _Before(path, kind, copy)
        self._write()  # before anything changes

    def take_back(self) -> list[str]:
        """Make everything as it was, and tell which paths that were."""
        paths = sorted(path for path, entry in self._entries.items() if entry.kind == "laid")
        self._take_back(list(self._entries))
        shutil.rmtree(self._folder, ignore_errors=True)
        return paths

    def _take_back(self, paths: Iterable[str]) -> None:
        for path in sorted(paths, reverse=True):
            entry = self._entries.pop(path)
            target = self._at(path)
            if entry.kind == "folder":
                if target.is_dir() and not any(target.iterdir()):
                    target.rmdir()
                continue
            _remove(target)
            if entry.kind == "laid":
                _remove(beside(target))  # of a run that was broken off
            if entry.copy:
                _copy(self._folder / entry.copy, target)
        self._write()

    def _missing_folders(self, path: str) -> list[str]:
        parents = [str(parent) for parent in Path(path).parents if str(parent) not in ("/", ".")]
        return [one for one in parents if one not in self._entries and not self._at(one).exists()]

    def _require_inside(self, path: str) -> None:
        root = self._root.resolve()
        if not self._at(path).parent.resolve().is_relative_to(root):
            raise InputError(
                f"{self._at(path).parent} leads out of {self._root}",
                hint="a link in this root folder points at this machine: unpack it again",
            )

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _read(self) -> list[_Before]:
        record = self._folder / _RECORD
        try:
            return msgspec.json.decode(record.read_bytes(), type=list[_Before])
        except FileNotFoundError:
            return []
        except msgspec.DecodeError as error:
            raise InputError(f"{record} can not be read: {error}") from error

    def _write(self) -> None:
        if self._folder.is_dir():
            with replacing(self._folder / _RECORD) as stream:
                stream.write(msgspec.json.encode(list(self._entries.values())))


def _copy(source: Path, target: Path) -> None:
    """A file, a link or a folder, with modes and owners."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
        return
    shutil.copy2(source, target, follow_symlinks=False)
    found = source.lstat()
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""Results of the stages of conversions, kept by what went into them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge.core import plugins
from edge.core.cache import default_cache
from edge.core.manifest import FileEntry

Value = TypeVar("Value")

log = logging.getLogger(__name__)

LIMIT_BYTES = 8 * 2**30
"""What is used longest ago is deleted when the cache grows beyond this."""

ABANDONED_S = 24 * 3600
"""A partial result of this age was left by a conversion that was killed."""

TOOLS = ("onnx", "onnxruntime", "openvino", "nncf", "onnxslim", "numpy", "torch")
"""Packages whose version changes what a stage gives."""

ENTRY = "entry.json"
FILES = "files"


class Record(msgspec.Struct, frozen=True):
    """What an entry holds: a stage's value as JSON, and files with their digests."""

    stage: str
    value: msgspec.Raw
    files: tuple[FileEntry, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """What one stage keeps in the cache."""

    stage: str
    entries: int
    size_bytes: int


class StageCache:
    """A folder with one entry per result, named by the SHA-256 of all that it depends on.

    An entry appears whole, by a rename, so that a conversion that is interrupted at any point
    finds what it finished. One that is damaged counts as missing. A cache that can not be written
    costs time, never the conversion.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_cache() / "conversion"

    def value(
        self, stage: str, key: Mapping[str, Any], kind: type[Value], make: Callable[[], Value]
    ) -> Value:
        """The kept result of ``stage`` for ``key``, else what ``make`` gives, which is kept."""
        return self._stage(stage, key, kind, None, lambda _: make())

    def files(
        self,
        stage: str,
        key: Mapping[str, Any],
        kind: type[Value],
        into: Path,
        make: Callable[[Path], Value],
    ) -> Value:
        """Like ``value``, for a stage that also writes files into the empty folder ``into``."""
        return self._stage(stage, key, kind, into, make)

    def usage(self) -> list[Usage]:
        """Entries and bytes by stage, the largest first."""
        found = [
            Usage(stage.name, len(entries), sum(_size(entry) for entry in entries))
            for stage in sorted(_folders(self.root))
            if (entries := list(_folders(stage)))
        ]
        return sorted(found, key=lambda usage: -usage.size_bytes)

    def clear(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _stage(
        self,
        stage: str,
        key: Mapping[str, Any],
        kind: type[Value],
        into: Path | None,
        make: Callable[[Path], Value],
    ) -> Value:
        entry = self.root / stage / _digest(stage, key)
        found = _read(entry, into)
        if found is not None:
            with contextlib.suppress(msgspec.DecodeError):
                value = msgspec.json.decode(found.value, type=kind, dec_hook=_path)
                log.info("%s is taken from the cache", stage)
                return value
        value = make(into or Path())
        try:
            self._keep(entry, stage, value, into)
        except OSError as error:
            log.warning("the result of %s can not be kept for the next time: %s", stage, error)
        return value

    def _keep(self, entry: Path, stage: str, value: Any, into: Path | None) -> None:
        partial = self.root / f".{secrets.token_hex(8)}.partial"
        try:
            partial.mkdir(parents=True)
            files = _copy(into, partial / FILES) if into else ()
            record = Record(stage, msgspec.Raw(msgspec.json.encode(value, enc_hook=str)), files)
            (partial / ENTRY).write_bytes(msgspec.json.encode(record))
            entry.parent.mkdir(exist_ok=True)
            if entry.exists():  # damaged, or made by another conversion meanwhile
                shutil.rmtree(entry)
            os.rename(partial, entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._prune()

    def _prune(self) -> None:
        """Delete what is used longest ago until the rest fits."""
        for left in self.root.glob(".*.partial"):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        entries = [entry for stage in _folders(self.root) for entry in _folders(stage)]
        sizes = {entry: _size(entry) for entry in entries}
        total = sum(sizes.values())
        for entry in sorted(entries, key=lambda path: path.stat().st_mtime):
            if total <= LIMIT_BYTES:
                break
            shutil.rmtree(entry, ignore_errors=True)
            total -= sizes[entry]


def tools() -> dict[str, str]:
    """Versions of what stages are made with, and of our own code."""
    versions = {"edge": _code_digest()}
    for name in TOOLS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@functools.cache
def _code_digest() -> str:
    """Of our own code that stages are made with, so that a changed line is never overlooked."""
    total = hashlib.sha256()
    folders = [Path(__file__).parents[1] / name for name in ("core", "vision", "host/health")]
    for package in ("converters", "runtimes"):
        folders += plugins.folders(package)
    files = [*Path(__file__).parent.glob("*.py")]
    files += [path for folder in folders for path in folder.rglob("*.py")]
    for path in sorted(files):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _path(kind: type[Path], text: str) -> Path:
    return kind(text)


def _digest(stage: str, key: Mapping[str, Any]) -> str:
    everything = {"stage": stage, "key": key, "tools": tools()}
    return hashlib.sha256(msgspec.json.encode(everything, order="deterministic")).hexdigest()


def _read(entry: Path, into: Path | None) -> Record | None:
    """The record of a whole entry, its files copied to ``into``."""
    try:
        record = msgspec.json.decode((entry / ENTRY).read_bytes(), type=Record)
        for file in record.files if into else ():
            data = (entry / FILES / file.path).read_bytes()
            if hashlib.sha256(data).hexdigest() != file.sha256:
                raise ValueError(f"{file.path} is damaged")
            target = Path(into or "", file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        os.utime(entry)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        if not isinstance(error, FileNotFoundError):
            log.warning("an entry of the conversion cache is made again: %s", error)
        return None
    return record


def _copy(source: Path, target: Path) -> tuple[FileEntry, ...]:
    entries = []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        data = path.read_bytes()
        name = path.relative_to(source)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
        entries.append(FileEntry(name.as_posix(), hashlib.sha256(data).hexdigest(), len(data)))
    return tuple(entries)


def _folders(root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):  # deleted meanwhile by another conversion
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return 0

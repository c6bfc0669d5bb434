"""Engines on this machine's disk, by all that they are bound to.

An engine is as good as a program: one that is damaged, was made for another machine, or could have
been written by someone else is never handed to TensorRT.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from edge.core.cache import default_cache
from edge.core.durable import locked, replacing
from edge.core.errors import UnavailableError

log = logging.getLogger(__name__)

MAGIC = b"edge engine 1\n"
SUFFIX = ".engine"
TIMINGS = "timings.cache"
MOST_HEADER_BYTES = 2**16


class Facts(msgspec.Struct, frozen=True):
    """What an engine is made of and bound to; ``graph`` and ``plan`` are digests."""

    graph: str
    plan: str
    tensorrt: str
    sm: str
    cuda: str
    gpu: str

    @property
    def key(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]

    @property
    def machine(self) -> str:
        """What timings of kernels hold for."""
        text = "\n".join((self.tensorrt, self.sm, self.cuda, self.gpu))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Header(msgspec.Struct, frozen=True):
    facts: Facts
    size_bytes: int
    sha256: str


class EngineStore:
    """The folder ``engines`` of the cache."""

    def __init__(self, cache: Path | None = None) -> None:
        self.folder = (cache or default_cache()) / "engines"

    def path(self, facts: Facts) -> Path:
        return self.folder / f"{facts.key}{SUFFIX}"

    def has(self, facts: Facts) -> bool:
        """Whether a whole engine for ``facts`` is there; its digest is checked when it is read."""
        try:
            return self._opening(self.path(facts), facts) is not None
        except OSError:
            return False

    def read(self, facts: Facts) -> bytes | None:
        """The engine, or None where there is none that can be trusted; the log says why."""
        path = self.path(facts)
        try:
            found = self._opening(path, facts)
            if found is None:
                return None
            header, start = found
            with path.open("rb") as stream:
                stream.seek(start)
                engine = stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s can not be read: %s", path, error.strerror)
            return None
        if hashlib.sha256(engine).hexdigest() != header.sha256:
            log.warning("%s is damaged, and is built again", path)
            return None
        return engine

    def write(self, facts: Facts, engine: bytes) -> Path:
        """Keep an engine; those of the same graph that this machine can no longer use go.

        Raises:
            UnavailableError: There is no room, or the folder can't be written.
        """
        header = _Header(facts, len(engine), hashlib.sha256(engine).hexdigest())
        path = self.path(facts)
        try:
            with replacing(path) as stream:
                os.fchmod(stream.fileno(), 0o600)
                stream.write(MAGIC + msgspec.json.encode(header) + b"\n")
                stream.write(engine)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._forget_stale(facts)
        return path

    @contextmanager
    def building(self, facts: Facts) -> Iterator[None]:
        """Keep other programs from building the same engine meanwhile.

        Raises:
            UnavailableError: The folder can't be written.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder / f".{facts.key}.lock"))
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            yield

    def timings(self, facts: Facts) -> bytes:
        """Timings of kernels that other builds on this machine left; empty if there are none."""
        path = self._timings(facts)
        try:
            if not _is_ours(path):
                log.warning("%s could have been written by others, and is not read", path)
                return b""
            digest, _, timings = path.read_bytes().partition(b"\n")
        except OSError:
            return b""
        if digest.decode("latin-1") != hashlib.sha256(timings).hexdigest():
            log.warning("%s is damaged: the timings of kernels are taken again", path)
            return b""
        return timings

    def write_timings(self, facts: Facts, timings: bytes) -> None:
        """Keep timings for the next build; that they can't be kept is no reason to fail."""
        try:
            with replacing(self._timings(facts)) as stream:
                os.fchmod(stream.fileno(), 0o600)
                stream.write(hashlib.sha256(timings).hexdigest().encode() + b"\n" + timings)
        except OSError as error:
            log.warning("the timings of kernels can not be kept: %s", error.strerror)

    def _timings(self, facts: Facts) -> Path:
        return self.folder / f"{facts.machine}.{TIMINGS}"

    def _opening(self, path: Path, facts: Facts) -> tuple[_Header, int] | None:
        """The header of a file that is whole, ours and for ``facts``; and where its engine is."""
        found = _header(path)
        if found is None:
            return None
        header, start = found
        if header.facts != facts:
            log.warning("%s was made for another machine, and is built again", path)
            return None
        if path.stat().st_size != start + header.size_bytes:
            log.warning("%s is cut short, and is built again", path)
            return None
        if not _is_ours(path) or not _is_ours(self.folder):
            log.warning("%s could have been written by others, and is built again", path)
            return None
        return header, start

    def _forget_stale(self, facts: Facts) -> None:
        for path in self.folder.glob(f"*{SUFFIX}"):
            try:
                found = _header(path)
                if found is None or path == self.path(facts):
                    continue
                other = found[0].facts
                if (other.graph, other.plan) == (facts.graph, facts.plan):
                    log.info("%s is of TensorRT %s on %s: removed", path, other.tensorrt, other.gpu)
                    path.unlink()
            except OSError as error:
                log.warning("%s can not be removed: %s", path, error.strerror)


def _header(path: Path) -> tuple[_Header, int] | None:
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            log.warning("%s is no engine of ours, and is built again", path)
            return None
        line = stream.readline(MOST_HEADER_BYTES)
        start = stream.tell()
    try:
        return msgspec.json.decode(line, type=_Header), start
    except msgspec.DecodeError:
        log.warning("%s is damaged, and is built again", path)
        return None


def _is_ours(path: Path) -> bool:
    """Whether nobody else could have written it, but for the administrator."""
    status = path.stat()
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid in (os.getuid(), 0) and not others


def _unwritable(path: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"can not keep an engine at {path}: {error.strerror}",
        hint="free some space there, or set XDG_CACHE_HOME to a writable folder",
    )

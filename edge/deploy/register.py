"""Remembers which device was vouched for with which key, in a file beside the authority's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge.core.errors import InputError
from edge.deploy.certificates import Request


class Entry(msgspec.Struct, frozen=True):
    """A certificate that was issued; nothing of it is secret. ``key`` is a fingerprint."""

    name: str
    key: str
    serial: str
    ends: str
    host: str


_decode = msgspec.json.Decoder(Entry).decode


class Register:
    """A line of JSON for each certificate.

    A device could ask for the name of another one: what a name was first given to, it stays with.

    Args:
        may_replace: A board was replaced, or got another name.
    """

    def __init__(self, path: Path, *, may_replace: bool = False) -> None:
        self._path = path
        self._may_replace = may_replace
        self._of_this_run: dict[str, str] = {}
        self._lock = threading.Lock()

    def claim(self, request: Request, host: str) -> None:
        """Raises ``InputError`` if the name has another key, the key another name or another host.

        The latter only for hosts that are enrolled together.
        """
        with self._lock:
            for known in (request.key, request.name):
                other = self._of_this_run.setdefault(known, host)
                if other != host:
                    raise InputError(
                        f"it says that it is {request.name}, as {other} does",
                        hint="was a disk copied with its key? Then, on one of them: "
                        "rm /etc/edge/device.*, and another host name",
                    )
            if not self._may_replace:
                _check(request, self._entries())

    def add(self, entry: Entry) -> None:
        """Durable when this returns."""
        try:
            with self._lock, open(self._path, "a+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - 1))
                if stream.read(1) not in (b"", b"\n"):  # a line was cut off
                    stream.write(b"\n")
                stream.write(msgspec.json.encode(entry) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(
                f"can not write {self._path}: {error.strerror}",
                hint="what is issued is noted beside the authority's certificate",
            ) from error

    def _entries(self) -> Iterator[Entry]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"can not read {self._path}: {error.strerror}") from error
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):  # cut off by the end of a process
                yield _decode(line)


def _check(request: Request, entries: Iterator[Entry]) -> None:
    names: dict[str, str] = {}
    keys: dict[str, str] = {}
    for entry in entries:  # the latest counts
        names[entry.name] = entry.key
        keys[entry.key] = entry.name
    if names.get(request.name, request.key) != request.key:
        raise InputError(
            f"{request.name} was enrolled with another key ({names[request.name]})",
            hint="if the board was replaced or set up anew: --replace; if not, it is another one",
        )
    if keys.get(request.key, request.name) != request.name:
        raise InputError(
            f"it says that it is {request.name}, and its key was enrolled as {keys[request.key]}",
            hint="if it was renamed: --replace; if not, its disk was copied with the key",
        )

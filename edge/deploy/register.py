"""Remembers which device was vouched for with which key, in a file beside the authority's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Container, Iterator, Mapping
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

    A device could ask for the name of another one, or for one that nobody has yet: a name is given
    to a key only once the operator has approved it, and stays with that until it is revoked.

    Args:
        approved: Names that may be given to keys, by their fingerprints; empty for any key.
        revoked: Serial numbers of certificates that hold no more.
    """

    def __init__(
        self,
        path: Path,
        *,
        approved: Mapping[str, str] | None = None,
        revoked: Container[str] = (),
    ) -> None:
        self._path = path
        self._approved = approved or {}
        self._revoked = revoked
        self._of_this_run: dict[str, str] = {}
        self._lock = threading.Lock()

    def claim(self, request: Request, host: str) -> bool:
        """Whether a name is the key's; False if the operator has to approve that first.

        Raises:
            InputError: The name has another key, the key another name, another host of this run
                has one of them, or another key was approved.
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
            return self._is_known(request) or self._is_approved(request)

    def issued_to(self, name: str) -> list[Entry]:
        """All certificates that a device ever got.

        Raises:
            InputError: There is none.
        """
        entries = list(self._entries())
        found = [entry for entry in entries if entry.name == name]
        if not found:
            names = ", ".join(sorted({entry.name for entry in entries})) or "none"
            raise InputError(f"nothing was issued to {name!r}", hint=f"enrolled are: {names}")
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing."""
        try:
            with open(self._path, "ab") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise InputError(f"can not write {self._path}: {error.strerror}") from error

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

    def _is_known(self, request: Request) -> bool:
        names: dict[str, str] = {}
        keys: dict[str, str] = {}
        for entry in self._entries():  # the latest counts
            if entry.serial not in self._revoked:
                names[entry.name] = entry.key
                keys[entry.key] = entry.name
        if names.get(request.name, request.key) != request.key:
            raise InputError(
                f"{request.name} was enrolled with another key ({names[request.name]})",
                hint="if the board was replaced or set up anew, take that back first: edge enroll "
                f"--revoke {request.name}; if not, it is another one",
            )
        if keys.get(request.key, request.name) != request.name:
            raise InputError(
                f"it says that it is {request.name}, and its key was enrolled as "
                f"{keys[request.key]}",
                hint=f"if it was renamed: edge enroll --revoke {keys[request.key]}; if not, its "
                "disk was copied with the key",
            )
        return request.name in names

    def _is_approved(self, request: Request) -> bool:
        approved = self._approved.get(request.name)
        if approved not in (None, "", request.key):
            raise InputError(
                f"{approved} was approved for {request.name}, and its key is {request.key}",
                hint="is it the right device?",
            )
        return approved is not None

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

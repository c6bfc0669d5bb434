"""Where an operator keeps how far a roll-out has come; one at a time may work on it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge.core.cache import default_state
from edge.core.durable import replacing
from edge.core.errors import InputError, UnavailableError
from edge.telemetry.fleet.rollout import Rollout, Target

SCHEMA = 1


class _Kept(msgspec.Struct, frozen=True):
    schema: int
    rollout: Rollout


class Journal:
    """One roll-out: of this bundle's file to this fleet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Rollout | None:
        """None for a roll-out that has not begun.

        Raises:
            InputError: What is there can't be read.
        """
        try:
            kept = msgspec.json.decode(self.path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"how far the roll-out has come can not be read: {self.path}: {error}",
                hint="begin it anew, by the devices' own word, with --restart",
            ) from error
        if kept.schema != SCHEMA:
            raise InputError(
                f"{self.path} is of schema {kept.schema}, this edge reads {SCHEMA}",
                hint="go on with the edge that began it",
            )
        return kept.rollout

    def write(self, rollout: Rollout) -> None:
        """Returns once it would survive a power cut.

        Raises:
            UnavailableError: The disk does not take it.
        """
        try:
            with replacing(self.path) as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(_Kept(SCHEMA, rollout))))
        except OSError as error:
            raise UnavailableError(
                f"how far the roll-out has come can not be kept: {self.path}: {error.strerror}"
            ) from error

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other operators on this machine out.

        Raises:
            UnavailableError: One is at work, or the folder can't be written.
        """
        with self._open_lock() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read(20).decode(errors="replace").strip()
                raise UnavailableError(
                    f"another operator works on this roll-out (process {holder})",
                    hint="wait for it or end it: edge goes on where it was left",
                ) from None
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n".encode())
            stream.flush()
            yield

    def _open_lock(self) -> BinaryIO:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return open(self.path.with_suffix(".lock"), "a+b")
        except OSError as error:
            raise UnavailableError(f"can not write {self.path.parent}: {error.strerror}") from error


def journal_of(fleet: str, target: Target, folder: Path | None = None) -> Journal:
    """``folder``: by default ``edge/roll-outs`` in ``$XDG_STATE_HOME``."""
    folder = folder or default_state() / "roll-outs"
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in fleet)
    which = hashlib.sha256(f"{fleet}\n{target.sha256}".encode()).hexdigest()[:16]
    return Journal(folder / f"{safe}-{target.name}-{which}.json")

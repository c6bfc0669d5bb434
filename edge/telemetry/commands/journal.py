"""What was begun and how it ended, on disk: a file for each command, whole or not at all."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edge.core.durable import replacing
from edge.telemetry.commands.order import Key

log = logging.getLogger(__name__)

_SUFFIX = ".json"
_DAY_MS = 24 * 3600 * 1000
_DAMAGED = {
    "status": "failed",
    "reason": "what the device had kept of this command is damaged: whether it was done is unknown",
    "kind": "interrupted",
}


class Entry(msgspec.Struct, frozen=True):
    """A command that was begun; ``end`` is what its answer says of it, once it has ended.

    ``is_told`` once nobody waits for the answer any more: the broker has it, or the operator has
    cleared the topic. ``notes`` are the verb's own.
    """

    verb: str
    id: str
    fields: dict[str, Any]
    number: int = 0
    begun_ms: int = 0
    notes: dict[str, Any] = {}
    end: dict[str, Any] | None = None
    is_told: bool = False

    @property
    def key(self) -> Key:
        return self.verb, self.id

    @property
    def answer(self) -> dict[str, Any]:
        return {**self.fields, **(self.end or {"status": "executing"})}


_decode = msgspec.json.Decoder(Entry).decode


class Journal:
    """Remembers commands by verb and id; any thread may call it.

    Args:
        folder: Where they survive this process, which nobody else uses; None for memory only.
        most: How many that ended are remembered; those that were told go first.
        most_days: How long; not judged by a clock that nothing keeps right.
    """

    def __init__(self, folder: Path | None, most: int, most_days: float) -> None:
        self.entries: dict[Key, Entry] = {}
        self._folder = folder
        self._most = most
        self._most_ms = most_days * _DAY_MS
        self._lock = threading.Lock()
        self._unkept: set[Key] = set()

    def open(self) -> None:
        """Read what earlier processes have left; a folder that can't be used is as none."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._find(self._folder)
        except OSError as error:
            log.warning("commands are remembered in memory only: %s", error)
            self._folder = None
            return
        found.sort(key=lambda entry: entry.number)
        self.entries = {entry.key: entry for entry in found}

    @staticmethod
    def _find(folder: Path) -> list[Entry]:
        found: list[Entry] = []
        for path in folder.iterdir():
            verb, _, id_ = path.name[: -len(_SUFFIX)].partition(".")
            if path.name.endswith(".partial"):
                with suppress(OSError):  # a disk that can only be read still says what was done
                    path.unlink()
            elif path.suffix == _SUFFIX and verb and id_:
                found.append(_read(path, verb, id_))
        return found

    def begin(self, verb: str, id_: str, fields: dict[str, Any], now_ms: int) -> Entry:
        """Raises OSError where it can't be kept: then it must not be run."""
        number = max((entry.number for entry in self.entries.values()), default=0) + 1
        entry = Entry(verb, id_, fields, number, now_ms)
        try:
            self._put(entry)
        except OSError:
            self._remove(entry.key)  # else it may be there, and would be interrupted, not refused
            raise
        return entry

    def note(self, key: Key, notes: dict[str, Any]) -> None:
        """Raises OSError."""
        entry = self.entries[key]
        self._put(msgspec.structs.replace(entry, notes={**entry.notes, **notes}))

    def end(self, key: Key, end: dict[str, Any], *, is_told: bool) -> Entry:
        """How it ended. Of a disk that fails it is told: only this process knows then."""
        entry = msgspec.structs.replace(self.entries[key], end=end, is_told=is_told)
        why = self._put_or_warn(entry)
        if why:
            hint = f"the device could not keep this, and may not know it after a restart: {why}"
            entry = msgspec.structs.replace(entry, end={"hint": hint, **end})
            self.entries[key] = entry
        return entry

    def told(self, key: Key) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.end is not None and not entry.is_told:
            self._put_or_warn(msgspec.structs.replace(entry, is_told=True))

    def keep(self) -> None:
        """Try again what could not be kept."""
        for key in list(self._unkept):
            self._put_or_warn(self.entries[key])

    def prune(self, now_ms: int, *, is_synchronized: bool) -> list[Key]:
        """Forget what is too old or too much, and say what that was."""
        ended = [entry for entry in self.entries.values() if entry.end is not None]
        ended.sort(key=lambda entry: (not entry.is_told, entry.number))
        going = ended[: max(0, len(ended) - self._most)]
        if is_synchronized:
            going += [
                entry
                for entry in ended[len(going) :]
                if entry.is_told and now_ms - entry.begun_ms > self._most_ms
            ]
        for entry in going:
            self._remove(entry.key)
        return [entry.key for entry in going]

    def _remove(self, key: Key) -> None:
        """One that the disk does not let go is there again after a restart, as it was."""
        with self._lock:
            self.entries.pop(key, None)
            self._unkept.discard(key)
            if self._folder is not None:
                with suppress(OSError):
                    self._path(key).unlink(missing_ok=True)

    def _put_or_warn(self, entry: Entry) -> str:
        """Why it can't be kept on the disk, where it is so; this process knows it all the same."""
        try:
            self._put(entry)
        except OSError as error:
            self.entries[entry.key] = entry
            level = logging.DEBUG if entry.key in self._unkept else logging.WARNING
            log.log(level, "how %s/%s ended can not be kept: %s", entry.verb, entry.id, error)
            self._unkept.add(entry.key)
            return error.strerror or str(error)
        self._unkept.discard(entry.key)
        return ""

    def _put(self, entry: Entry) -> None:
        with self._lock:
            if self._folder is not None:
                with replacing(self._path(entry.key)) as stream:
                    stream.write(msgspec.json.encode(entry))
            self.entries[entry.key] = entry

    def _path(self, key: Key) -> Path:
        assert self._folder is not None
        return self._folder / f"{'.'.join(key)}{_SUFFIX}"


def _read(path: Path, verb: str, id_: str) -> Entry:
    """One that can't be read must not be run again: nobody knows how far it came."""
    try:
        entry = _decode(path.read_bytes())
        if entry.key == (verb, id_):
            return entry
        error: object = "it is of another command"
    except (OSError, msgspec.MsgspecError, ValueError) as caught:
        error = caught
    log.warning("%s is damaged: %s", path, error)
    return Entry(verb, id_, {}, end=_DAMAGED)

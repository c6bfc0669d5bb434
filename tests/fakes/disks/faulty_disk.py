"""A disk in memory that fails, lies torn after a power cut, or is full."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator

from edge.telemetry.outbox import Wear

SURVIVORS = ("none", "half", "zeros", "torn", "all")  # of what was not synced when the power went


class PowerCut(BaseException):
    """Nothing of ours may catch it."""


class FaultyFiles:
    """Every call that changes something is a step; power goes before or amid step ``cut_at``.

    A file has synced bytes and others; of what happened to the folder's names since its last sync,
    any first part may survive. ``fails`` says by the name of a call and of a file what error it
    raises.
    """

    def __init__(self, contents: dict[str, bytes] | None = None, cut_at: int = -1) -> None:
        self.wear = Wear()
        self.cut_at = cut_at
        self.step = 0
        self.free = 1 << 40
        self.calls: list[str] = []
        self.fails: Callable[[str, str], int] = lambda call, name: 0
        self._files = {name: bytearray(data) for name, data in (contents or {}).items()}
        self._synced = {id(data): bytes(data) for data in self._files.values()}
        self._kept: list[bytearray] = []  # so that no id comes twice
        self._names = [dict(self._files)]  # at the last sync of the folder, and after each change

    def sizes(self) -> dict[str, int]:
        return {name: len(data) for name, data in self._files.items()}

    def read(self, name: str) -> bytes:
        self._raise("read", name)
        if name not in self._files:
            raise FileNotFoundError(errno.ENOENT, "gone", name)
        return bytes(self._files[name])

    def create(self, name: str) -> None:
        self._step("create", name)
        self._files[name] = bytearray()
        self._kept.append(self._files[name])
        self._synced[id(self._files[name])] = b""
        self._names.append(dict(self._files))

    def append(self, name: str, data: bytes) -> None:
        half = data[: len(data) // 2]
        if self.step == self.cut_at:
            self._files[name] += half
        self._step("append", name, lambda: self._files[name].extend(half))
        self._files[name] += data
        self.wear.bytes += len(data)

    def sync(self, name: str) -> None:
        self._step("sync", name)
        self._synced[id(self._files[name])] = bytes(self._files[name])
        self.wear.syncs += 1

    def truncate(self, name: str, size: int) -> None:
        self._step("truncate", name)
        del self._files[name][size:]

    def close(self, name: str) -> None:
        pass

    def rename(self, old: str, new: str) -> None:
        self._step("rename", old)
        self._files[new] = self._files.pop(old)
        self._names.append(dict(self._files))

    def unlink(self, name: str) -> None:
        self._step("unlink", name)
        self._files.pop(name, None)
        self._names.append(dict(self._files))

    def sync_folder(self) -> None:
        self._step("sync_folder", "")
        self._names = [dict(self._files)]

    def free_bytes(self) -> int:
        return self.free

    def release(self) -> None:
        pass

    def after_cut(self) -> Iterator[dict[str, bytes]]:
        """Every kind of disk that the next start may find."""
        for names, survivors in itertools.product(self._names, SURVIVORS):
            yield {name: self._left(data, survivors) for name, data in names.items()}

    def _left(self, data: bytearray, survivors: str) -> bytes:
        synced = self._synced[id(data)]
        unsynced = bytes(data[len(synced) :])
        middle = len(unsynced) // 2
        left = {
            "none": b"",
            "half": unsynced[:middle],
            "zeros": unsynced[:middle] + bytes(len(unsynced) - middle),  # only the length came
            "torn": bytes(middle) + unsynced[middle:],  # a later page came through, a former not
            "all": unsynced,
        }
        return synced + left[survivors]

    def _step(self, call: str, name: str, in_part: Callable[[], None] = lambda: None) -> None:
        self.calls.append(call)
        if self.step == self.cut_at:
            raise PowerCut
        self.step += 1
        self._raise(call, name, in_part)

    def _raise(self, call: str, name: str, in_part: Callable[[], None] = lambda: None) -> None:
        if number := self.fails(call, name):
            in_part()
            raise OSError(number, errno.errorcode[number], name)

"""The newest messages, in memory: those not written yet, and those that are and still fit."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable

import msgspec

from edge.telemetry.outbox.record import Record

_OVERHEAD_BYTES = 512  # of a message in memory


class Entry(msgspec.Struct, frozen=True):
    record: Record
    put_s: float

    @property
    def cost_bytes(self) -> int:
        return len(self.record.payload) + _OVERHEAD_BYTES


class Tail:
    """Ordered by ``seq``. The caller locks."""

    def __init__(self, kinds: Iterable[int]) -> None:
        self.size_bytes = 0
        self._seqs: list[int] = []
        self._entries: dict[int, Entry] = {}
        self._unwritten: dict[int, dict[int, Entry]] = {kind: {} for kind in kinds}
        self._unwritten_bytes = dict.fromkeys(self._unwritten, 0)

    def __len__(self) -> int:
        return len(self._seqs)

    def add(self, record: Record, now_s: float) -> None:
        entry = Entry(record, now_s)
        insort(self._seqs, record.seq)
        self._entries[record.seq] = entry
        self._unwritten[record.kind][record.seq] = entry
        self._unwritten_bytes[record.kind] += record.size_bytes
        self.size_bytes += entry.cost_bytes

    def remove(self, seq: int) -> bool:
        """Whether it was here and not written yet."""
        entry = self._entries.pop(seq, None)
        if entry is None:
            return False
        del self._seqs[bisect_right(self._seqs, seq) - 1]
        self.size_bytes -= entry.cost_bytes
        return self._settle(entry.record)

    def first_after(self, seq: int) -> Record | None:
        place = bisect_right(self._seqs, seq)
        return self._entries[self._seqs[place]].record if place < len(self._seqs) else None

    def first_fresh(self, since_s: float) -> int | None:
        """The first that was put after ``since_s``."""
        first = None
        for seq in reversed(self._seqs):
            if self._entries[seq].put_s < since_s:
                break
            first = seq
        return first

    def unwritten(self, kind: int) -> list[Record]:
        return [entry.record for entry in self._unwritten[kind].values()]

    def oldest_unwritten(self, kind: int) -> Entry | None:
        return next(iter(self._unwritten[kind].values()), None)

    def unwritten_bytes(self, kind: int) -> int:
        return self._unwritten_bytes[kind]

    def written(self, records: Iterable[Record]) -> None:
        """``records`` are on disk now; some may be gone from here."""
        for record in records:
            self._settle(record)

    def oldest_written(self) -> Record | None:
        for seq in self._seqs:
            record = self._entries[seq].record
            if seq not in self._unwritten[record.kind]:
                return record
        return None

    def _settle(self, record: Record) -> bool:
        """Whether it was unwritten until now."""
        if self._unwritten[record.kind].pop(record.seq, None) is None:
            return False
        self._unwritten_bytes[record.kind] -= record.size_bytes
        return True

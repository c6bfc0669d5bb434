"""What an outbox knows without looking at the disk: the newest messages, and what is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec

from edge.telemetry.outbox.ranges import Ranges
from edge.telemetry.outbox.record import Record
from edge.telemetry.outbox.stream import Kind
from edge.telemetry.outbox.tail import Tail

_MIB = 1024 * 1024


class Bounds(msgspec.Struct, frozen=True):
    """How much is kept where, and how fast it leaves.

    A kind is written before its ``commit_s`` when ``commit_bytes`` wait. Less than
    ``min_free_bytes`` on the disk is for others. What is done is noted after ``checkpoint_s`` or
    ``checkpoint_count`` acknowledgements: after a power cut, at most these come twice. The first
    ``history_burst`` messages that waited for a connection go before live ones, in order; the
    rest go beside them, ``history_per_s``. What is younger than ``fresh_s`` did not wait.
    """

    memory_bytes: int = _MIB
    segment_bytes: int = _MIB
    commit_bytes: int = 64 * 1024
    min_free_bytes: int = 64 * _MIB
    checkpoint_s: float = 60.0
    checkpoint_count: int = 1000
    history_burst: int = 500
    history_per_s: float = 100.0
    fresh_s: float = 1.0


class Gap(msgspec.Struct, frozen=True):
    """Messages that are lost, from ``first`` to ``last``; or what may be, between these two.

    ``count`` is None where nobody knows. ``reason``: ``memory``, ``bytes``, ``age``, ``disk``
    (they were given up), ``damaged`` (they can't be read; ``first`` and ``last`` are the intact
    neighbours) or ``cursor`` (nothing is lost, but some may come twice); or what the user of an
    outbox gives as a reason to give one up.
    """

    reason: str
    count: int | None
    first: Record | None = None
    last: Record | None = None
    detail: str = ""


class Ledger:
    """Numbers messages, and holds the newest; ``lock`` guards all of it, and waits for no disk.

    Age is counted by ``clock_s``: the seconds that the outbox has run, over all runs.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        describe: Callable[[Gap], bytes],
        bounds: Bounds,
        clock: Callable[[], float],
    ) -> None:
        self.kinds = {kind.number: kind for kind in kinds}
        self.event = kinds[-1]
        self.bounds = bounds
        self.clock = clock
        self.lock = threading.RLock()
        self.tail = Tail(self.kinds)
        self.done = Ranges()
        self.in_flight: set[int] = set()
        self.last = 0
        self.on_disk_only = 0  # the newest that is no longer in memory
        self.failure = ""
        self.dropped_count = 0
        self.unnoted_count, self.checkpoint_at_s = 0, 0.0
        self._describe = describe
        self._gaps: dict[str, Gap] = {}
        self._begun_s = clock()

    def resume(self, last: int, clock_s: int, done: Ranges) -> None:
        """Go on where an earlier run has ended; ``last`` is the highest number on disk."""
        self.done = done
        self.last = self.on_disk_only = max(last, done.highest)
        self._begun_s -= clock_s

    def clock_s(self) -> int:
        return int(self.clock() - self._begun_s)

    def add(self, kind: Kind, payload: bytes) -> Record:
        self.last += 1
        record = Record(self.last, kind.number, self.clock_s(), payload)
        self.tail.add(record, self.clock())
        return record

    def acknowledge(self, seq: int) -> None:
        self.in_flight.discard(seq)
        self.done.add(seq, seq)
        if not self.tail.remove(seq):  # else it was never written
            self.to_note(1)

    def to_note(self, count: int) -> None:
        """So many more are done of what is on disk."""
        if not self.unnoted_count:
            self.checkpoint_at_s = self.clock() + self.bounds.checkpoint_s
        self.unnoted_count += count

    def noted(self, count: int) -> None:
        self.unnoted_count -= count
        self.checkpoint_at_s = self.clock() + self.bounds.checkpoint_s

    def give_up(self, record: Record, reason: str) -> None:
        self.tail.remove(record.seq)
        self.done.add(record.seq, record.seq)
        self.note_gap(Gap(reason, 1, record, record))

    def pass_over(self, first: int, last: int) -> None:
        """Numbers that are neither on disk nor in memory are done, but for those on their way."""
        for seq in sorted(self.in_flight):
            if first <= seq <= last:
                self.done.add(first, seq - 1)
                first = seq + 1
        self.done.add(first, last)

    def shrink(self) -> None:
        """Keep memory bounded: first goes what is on disk, then what is not."""
        while self.tail.size_bytes > self.bounds.memory_bytes and len(self.tail) > 1:
            if written := self.tail.oldest_written():
                self.tail.remove(written.seq)
                self.on_disk_only = max(self.on_disk_only, written.seq)
            elif victim := next(filter(None, map(self._oldest_idle, self.kinds)), None):
                self.give_up(victim, "disk" if self.failure else "memory")
            else:
                return

    def note_gap(self, gap: Gap) -> None:
        """Remember what is to be told; gaps of one reason become one until then."""
        self.dropped_count += gap.count or 0
        before = self._gaps.get(gap.reason)
        if before is not None and before.count is not None and gap.count is not None:
            ends = [end for end in (before.first, before.last, gap.first, gap.last) if end]
            ends.sort(key=lambda end: end.seq)
            count = before.count + gap.count
            gap = msgspec.structs.replace(gap, count=count, first=ends[0], last=ends[-1])
        self._gaps[gap.reason] = gap

    def tell_gaps(self) -> list[Record]:
        """Make messages of what was noted."""
        gaps, self._gaps = self._gaps, {}
        return [self.tell(gap) for gap in gaps.values()]

    def tell(self, gap: Gap) -> Record:
        return self.add(self.event, self._describe(gap))

    def due_s(self, kind: Kind) -> float:
        """When messages of a kind are to be written, on the clock; infinite if none wait."""
        with self.lock:
            oldest = self.tail.oldest_unwritten(kind.number)
            if oldest is None:
                return self.clock() if self._gaps and kind is self.event else float("inf")
            if self.tail.unwritten_bytes(kind.number) >= self.bounds.commit_bytes:
                return self.clock()
            return oldest.put_s + kind.commit_s

    def checkpoint_due_s(self) -> float:
        with self.lock:
            if self.unnoted_count >= self.bounds.checkpoint_count:
                return self.clock()
            return self.checkpoint_at_s if self.unnoted_count else float("inf")

    def _oldest_idle(self, number: int) -> Record | None:
        for record in self.tail.unwritten(number):
            if record.seq not in self.in_flight:
                return record
        return None

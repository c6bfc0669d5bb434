"""Keeps messages until they are acknowledged, whatever happens to the broker, disk or power."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edge.core.errors import InputError
from edge.telemetry.backoff import Backoff
from edge.telemetry.outbox.cursor import Cursor, load, save
from edge.telemetry.outbox.files import Files, Wear
from edge.telemetry.outbox.ranges import Ranges
from edge.telemetry.outbox.record import MAX_PAYLOAD_BYTES, Record
from edge.telemetry.outbox.stream import Broken, Kind, Segment, Stream
from edge.telemetry.outbox.tail import Tail

log = logging.getLogger(__name__)

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
    neighbours) or ``cursor`` (nothing is lost, but some may come twice).
    """

    reason: str
    count: int | None
    first: Record | None = None
    last: Record | None = None
    detail: str = ""


class Status(msgspec.Struct, frozen=True):
    """``failure`` says why nothing can be written now; empty when all is well."""

    is_durable: bool
    failure: str
    waiting_bytes: int
    dropped_count: int
    record_count: int
    wear: Wear


class Outbox:
    """What was accepted comes out again, in order, until it is acknowledged.

    A message is accepted when it was synced: after its kind's ``commit_s``, or when ``commit``
    returns. One that is acknowledged before costs the flash nothing. Past the last checkpoint
    messages may come twice. Those of this connection (live) and those that waited for it
    (history) are in order each.

    Age is counted on a clock of the outbox's own: the seconds it has run, over all runs. The
    system's clock may jump, and power may be off for years, without a message being given up.

    ``put`` and ``acknowledge`` never wait for the disk. Any thread may put, one takes. Without
    ``files`` all stays in memory. ``describe`` makes the payload that tells of a gap, which goes
    as one of the last of ``kinds``; the first of them is given up first.
    """

    def __init__(
        self,
        files: Files | None,
        kinds: Sequence[Kind],
        describe: Callable[[Gap], bytes],
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._kinds = {kind.number: kind for kind in kinds}
        self._event = kinds[-1]
        self._describe = describe
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._tail = Tail(self._kinds)
        self._streams: list[Stream] = []
        self._done = Ranges()
        self._next = 1
        self._gaps: dict[str, Gap] = {}
        self._in_flight: set[int] = set()
        self._urgent: deque[Record] = deque()
        self._boundary = self._live_after = self._history_after = 0
        self._on_disk_only = 0  # the newest that is no longer in memory
        self._has_history = False
        self._burst = 0
        self._tokens, self._refilled_s = 0.0, 0.0
        self._acknowledged_count, self._checkpoint_at_s = 0, 0.0
        self._failure, self._retry_at_s, self._backoff = "", 0.0, Backoff(1.0, 60.0)
        self._dropped_count = self._record_count = 0
        self._lock = threading.RLock()  # of what is in memory
        self._disk = threading.RLock()  # of files and streams; taken before the other
        self._begun_s = clock()
        self.on_change: Callable[[], None] = _nothing
        if files is not None:
            self._open(files)

    def put(self, kind: Kind, payload: bytes) -> int:
        """Take a message over; returns its number.

        Raises:
            InputError: It is longer than a record may be.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InputError(f"a message of {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} fit")
        with self._lock:
            record = self._add(kind, payload)
            self._shrink()
        self.on_change()
        return record.seq

    def begin(self) -> None:
        """A connection begins: all that is not acknowledged goes again, as history if it waited."""
        with self._disk, self._lock:
            for stream in self._streams:
                stream.rewind()
            self._in_flight.clear()
            self._urgent.clear()
            fresh = self._tail.first_fresh(self._clock() - self._bounds.fresh_s)
            self._boundary = self._next - 1 if fresh is None else fresh - 1
            self._boundary = max(self._boundary, self._on_disk_only)
            self._live_after, self._history_after = self._boundary, 0
            self._has_history = True
            self._burst = self._bounds.history_burst
            self._tokens, self._refilled_s = 0.0, self._clock()

    def end(self) -> None:
        """The connection is gone: what was not acknowledged waits again."""
        with self._lock:
            self._in_flight.clear()

    def take(self) -> tuple[Record, bool] | None:
        """The next to send, and whether it is history; None if there is none now."""
        with self._lock:
            self._tell_gaps(is_urgent=True)
            if self._urgent:
                return self._flying(self._urgent.popleft()), False
        if self._has_history and self._burst > 0 and (record := self._take_history()):
            self._burst -= 1
            return record, True
        if record := self._take_live():
            return record, False
        if self._has_history and self._refill() >= 1 and (record := self._take_history()):
            self._tokens -= 1
            return record, True
        return None

    @property
    def has_history(self) -> bool:
        """Whether `take` may give more by and by, though it gave None."""
        return self._has_history

    def acknowledge(self, seq: int) -> None:
        with self._lock:
            self._in_flight.discard(seq)
            self._done.add(seq, seq)
            if self._tail.remove(seq):
                return  # it was never written
            self._to_note(1)
        self.on_change()

    def commit(self) -> bool:
        """Write all that waits in memory; whether all of it is safe now."""
        self.work(is_forced=True)
        with self._lock:
            return bool(self._streams) and not any(
                self._tail.oldest_unwritten(number) for number in self._kinds
            )

    def work(self, *, is_forced: bool = False) -> None:
        """Write and note what is due. Errors of the disk are told in ``status``, not raised."""
        with self._disk:
            if not self._streams or (not is_forced and self._clock() < self._retry_at_s):
                return
            self._guarded(self._expire)
            for stream in self._streams:
                if is_forced or self._due_s(stream.kind) <= self._clock():
                    self._guarded(self._write, stream)
            if self._is_checkpoint_due(is_forced=is_forced):
                self._guarded(self._checkpoint)

    def _guarded(self, step: Callable[..., None], *given: Any) -> None:
        try:
            step(*given)
        except OSError as error:
            self._fail(error)

    def next_work_s(self) -> float:
        """When `work` has something to do, on the clock; infinite if nothing waits."""
        with self._lock:
            due_s = min(map(self._due_s, self._kinds.values()))
            if self._acknowledged_count:
                due_s = min(due_s, self._checkpoint_at_s)
                if self._acknowledged_count >= self._bounds.checkpoint_count:
                    due_s = self._clock()
            return max(due_s, self._retry_at_s)

    def status(self) -> Status:
        with self._lock:
            return Status(
                is_durable=bool(self._streams) and not self._failure,
                failure=self._failure,
                waiting_bytes=self.waiting_bytes,
                dropped_count=self._dropped_count,
                record_count=self._record_count,
                wear=msgspec.structs.replace(self._files.wear) if self._files else Wear(),
            )

    @property
    def waiting_bytes(self) -> int:
        """On disk, and in memory beside that."""
        with self._lock:
            unwritten = sum(map(self._tail.unwritten_bytes, self._kinds))
            return unwritten + sum(stream.size_bytes for stream in self._streams)

    def close(self) -> None:
        """Write what waits and what is done; files are let go. A second call does nothing."""
        with self._disk:
            self.work(is_forced=True)
            self._streams = []
            if self._files:
                self._files.release()

    def _open(self, files: Files) -> None:
        """Raises OSError if what is there can't be read."""
        streams = [
            Stream(kind, files, min(self._bounds.segment_bytes, kind.max_bytes // 4), self._broken)
            for kind in self._kinds.values()
        ]
        sizes = files.sizes()
        for stream in streams:
            stream.open(sizes)
        cursor = load(files)
        if cursor is None:
            self._note_gap(Gap("cursor", 0, detail="it is damaged, so that some may come twice"))
            cursor = Cursor()
        self._streams = streams
        self._done = Ranges(cursor.done)
        self._next = max(self._done.highest, *(stream.last for stream in streams)) + 1
        self._on_disk_only = self._boundary = self._live_after = self._next - 1
        newest_s = max(cursor.clock_s, *(stream.clock_s for stream in streams))
        self._begun_s -= newest_s

    def _to_note(self, count: int) -> None:
        """So many more are done of what is on disk."""
        if not self._acknowledged_count:
            self._checkpoint_at_s = self._clock() + self._bounds.checkpoint_s
        self._acknowledged_count += count

    def _clock_s(self) -> int:
        return int(self._clock() - self._begun_s)

    def _add(self, kind: Kind, payload: bytes) -> Record:
        record = Record(self._next, kind.number, self._clock_s(), payload)
        self._next += 1
        self._tail.add(record, self._clock())
        return record

    def _shrink(self) -> None:
        """Keep memory bounded: first goes what is on disk, then what is not."""
        while self._tail.size_bytes > self._bounds.memory_bytes and len(self._tail) > 1:
            written = self._tail.oldest_written()
            if written is not None:
                self._tail.remove(written.seq)
                self._on_disk_only = max(self._on_disk_only, written.seq)
                if written.seq > self._live_after and written.seq not in self._in_flight:
                    self._boundary = self._live_after = written.seq
                    self._has_history = True
                continue
            victim = next(filter(None, map(self._oldest_idle, self._kinds)), None)
            if victim is None:
                return
            self._tail.remove(victim.seq)
            self._done.add(victim.seq, victim.seq)
            self._note_gap(Gap("disk" if self._failure else "memory", 1, victim, victim))

    def _oldest_idle(self, number: int) -> Record | None:
        for record in self._tail.unwritten(number):
            if record.seq not in self._in_flight:
                return record
        return None

    def _note_gap(self, gap: Gap) -> None:
        """Remember what is to be told; neighbouring gaps of one reason become one."""
        before = self._gaps.get(gap.reason)
        if before is not None and before.count is not None and gap.count is not None:
            gap = msgspec.structs.replace(
                before, last=gap.last or before.last, count=before.count + gap.count
            )
            self._dropped_count -= before.count
        self._dropped_count += gap.count or 0
        self._gaps[gap.reason] = gap

    def _broken(self, broken: Broken) -> None:
        size, segment = broken.damage.size_bytes, broken.segment
        detail = f"{size} bytes of {segment} at {broken.damage.offset} can not be read"
        log.warning("outbox: %s", detail)
        with self._lock:
            self._tell(Gap("damaged", None, broken.before, broken.after, detail))

    def _tell_gaps(self, *, is_urgent: bool = False) -> None:
        gaps, self._gaps = self._gaps, {}
        for gap in gaps.values():
            record = self._tell(gap)
            if is_urgent:
                self._urgent.append(record)

    def _tell(self, gap: Gap) -> Record:
        return self._add(self._event, self._describe(gap))

    def _flying(self, record: Record) -> Record:
        self._in_flight.add(record.seq)
        return record

    def _take_live(self) -> Record | None:
        with self._lock:
            while record := self._tail.first_after(self._live_after):
                self._live_after = record.seq
                if record.seq not in self._in_flight:
                    return self._flying(record)
        return None

    def _take_history(self) -> Record | None:
        with self._disk:
            while True:
                after = self._history_after
                try:
                    heads = [stream.next_after(after) for stream in self._streams]
                except OSError as error:
                    self._fail(error)
                    return None
                with self._lock:
                    record = min(
                        (
                            head
                            for head in (*heads, self._tail.first_after(after))
                            if head is not None and head.seq <= self._boundary
                        ),
                        key=lambda head: head.seq,
                        default=None,
                    )
                    until = record.seq - 1 if record else self._boundary
                    self._pass_over(after + 1, until)
                    self._history_after = record.seq if record else until
                    if record is None:
                        self._has_history = False
                        self._to_note(1)
                        return None
                    if self._is_wanted(record):
                        return self._flying(record)

    def _pass_over(self, first: int, last: int) -> None:
        """Numbers that are neither on disk nor in memory are done, but for those on their way."""
        for seq in sorted(self._in_flight):
            if first <= seq <= last:
                self._done.add(first, seq - 1)
                first = seq + 1
        self._done.add(first, last)

    def _is_wanted(self, record: Record) -> bool:
        if record.seq in self._done or record.seq in self._in_flight:
            return False
        if record.clock_s + self._kinds[record.kind].max_age_s >= self._clock_s():
            return True
        self._done.add(record.seq, record.seq)
        self._tail.remove(record.seq)
        self._note_gap(Gap("age", 1, record, record))
        return False

    def _refill(self) -> float:
        """How many of the history may go now."""
        now_s, rate = self._clock(), self._bounds.history_per_s
        grown = self._tokens + (now_s - self._refilled_s) * rate
        self._tokens, self._refilled_s = min(grown, max(1.0, rate)), now_s
        return self._tokens

    def _due_s(self, kind: Kind) -> float:
        with self._lock:
            oldest = self._tail.oldest_unwritten(kind.number)
            if oldest is None:
                return self._clock() if self._gaps and kind is self._event else float("inf")
            if self._tail.unwritten_bytes(kind.number) >= self._bounds.commit_bytes:
                return self._clock()
            return oldest.put_s + kind.commit_s

    def _write(self, stream: Stream) -> None:
        number = stream.kind.number
        self._make_room(stream, self._tail.unwritten_bytes(number))
        while True:
            with self._lock:
                if stream.kind is self._event:
                    self._tell_gaps()
                records = self._tail.unwritten(number)
            if not records:
                return
            try:
                stream.append(records)
            except OSError as error:
                if error.errno != errno.ENOSPC or not self._drop_oldest("disk"):
                    raise
            else:
                break
        with self._lock:
            self._tail.written(records)
            self._record_count += len(records)
            self._shrink()
        self._recover()

    def _make_room(self, stream: Stream, size: int) -> None:
        while stream.segments and stream.size_bytes + size > stream.kind.max_bytes:
            self._drop(stream, stream.segments[0], "bytes")
        assert self._files is not None
        while self._files.free_bytes() < self._bounds.min_free_bytes + size:
            if self._drop_oldest("disk"):
                continue
            if stream is self._streams[0]:
                raise OSError(errno.ENOSPC, "the disk is full but for what is left to others")
            return

    def _drop_oldest(self, reason: str) -> bool:
        """Give up the oldest of what is given up first."""
        stream = self._streams[0]
        if stream.segments:
            self._drop(stream, stream.segments[0], reason)
            return True
        return False

    def _drop(self, stream: Stream, segment: Segment, reason: str) -> None:
        """Tell first, then remove: a gap may be told twice, but none is untold."""
        records = [record for record in stream.load(segment) if record.seq not in self._done]
        if records:
            with self._lock:
                self._note_gap(Gap(reason, len(records), records[0], records[-1]))
                self._tell_gaps()
                told = self._tail.unwritten(self._event.number)
            try:
                self._streams[-1].append(told)
            except OSError as error:
                log.debug("a gap is told from memory: %s", error)
            else:
                with self._lock:
                    self._tail.written(told)
        stream.remove(segment)
        with self._lock:
            for record in records:
                self._tail.remove(record.seq)
                self._done.add(record.seq, record.seq)

    def _expire(self) -> None:
        for stream in self._streams:
            oldest_s = self._clock_s() - stream.kind.max_age_s
            ends_s = [segment.begun_s for segment in stream.segments[1:]] + [stream.clock_s]
            for segment, end_s in zip(list(stream.segments), ends_s, strict=False):
                if end_s < oldest_s:
                    self._drop(stream, segment, "age")

    def _is_checkpoint_due(self, *, is_forced: bool) -> bool:
        with self._lock:
            count = self._acknowledged_count
            return count > 0 and (
                is_forced
                or count >= self._bounds.checkpoint_count
                or self._clock() >= self._checkpoint_at_s
            )

    def _checkpoint(self) -> None:
        """Remove what is done, and note what is done of the rest."""
        with self._lock:
            self._acknowledged_count = 0
            done = Ranges(self._done)
        for stream in self._streams:
            for segment in list(stream.segments):
                if done.covers(segment.first, segment.last):
                    stream.remove(segment)
        if any(stream.segments for stream in self._streams):
            assert self._files is not None
            save(self._files, Cursor(tuple(done), self._clock_s()))

    def _fail(self, error: OSError) -> None:
        why = error.strerror or str(error)
        if not self._failure:
            log.warning("outbox: messages are kept in memory, as the disk fails: %s", why)
        self._failure = why
        self._retry_at_s = self._clock() + self._backoff.next_s()

    def _recover(self) -> None:
        if self._failure:
            log.warning("outbox: messages are kept on disk again")
        self._failure, self._retry_at_s = "", 0.0
        self._backoff.failures = 0


def _nothing() -> None:
    pass

"""Writes what an outbox holds, and gives up the oldest where there is no room for more."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import Any

from edge.telemetry.outbox.cursor import Cursor, load, save
from edge.telemetry.outbox.files import Files
from edge.telemetry.outbox.ledger import Gap, Ledger
from edge.telemetry.outbox.ranges import Ranges
from edge.telemetry.outbox.record import Record
from edge.telemetry.outbox.stream import Broken, Segment, Stream

log = logging.getLogger(__name__)

_RETRY_S = 5.0
_CHECKPOINT = "checkpoint"


class Writer:
    """The disk's half of an outbox; any thread may call, and waits for the disk.

    Its lock is taken before the ledger's, never after.
    """

    def __init__(self, ledger: Ledger, files: Files) -> None:
        self.record_count = 0
        self._ledger = ledger
        self._files = files
        self._lock = threading.RLock()
        self._retry_at_s: dict[str, float] = {}  # what failed
        largest = ledger.bounds.segment_bytes
        self._streams = [
            Stream(kind, files, min(largest, kind.max_bytes // 4), self._tell_broken)
            for kind in ledger.kinds.values()
        ]
        self._resume()

    def work(self, *, is_forced: bool = False) -> None:
        """Write and note what is due; what fails is told as the ledger's ``failure``."""
        with self._lock:
            for stream in self._streams:
                due_s = self._ledger.due_s(stream.kind)
                self._attempt(stream.kind.name, due_s, is_forced, self._write, stream)
            due_s = self._ledger.checkpoint_due_s()
            self._attempt(_CHECKPOINT, due_s, is_forced, self._checkpoint)

    def next_work_s(self) -> float:
        """When there is something to do, on the clock; infinite if nothing waits."""
        dues_s = {kind.name: self._ledger.due_s(kind) for kind in self._ledger.kinds.values()}
        dues_s[_CHECKPOINT] = self._ledger.checkpoint_due_s()
        retries_s = dict(self._retry_at_s)
        return min(max(due_s, retries_s.get(name, due_s)) for name, due_s in dues_s.items())

    @property
    def size_bytes(self) -> int:
        return sum(stream.size_bytes for stream in self._streams)

    def rewind(self) -> None:
        """Read from the beginning again."""
        with self._lock:
            for stream in self._streams:
                stream.rewind()

    def first_after(self, seq: int) -> Record | None:
        """The first on disk beyond ``seq``, which must not fall until a ``rewind``.

        Raises:
            OSError: It can't be read now, and may be later.
        """
        with self._lock:
            heads = [stream.next_after(seq) for stream in self._streams]
        return min(filter(None, heads), key=lambda head: head.seq, default=None)

    def close(self) -> None:
        with self._lock:
            self.work(is_forced=True)
            self._streams = []
            self._files.release()

    def _resume(self) -> None:
        sizes = self._files.sizes()
        for stream in self._streams:
            stream.open(sizes)
        cursor = load(self._files)
        if cursor is None:
            why = "it is damaged, so that some messages may come twice"
            log.warning("outbox: the cursor is not used: %s", why)
            self._ledger.note_gap(Gap("cursor", 0, detail=why))
            cursor = Cursor()
        last = max(stream.last for stream in self._streams)
        clock_s = max(cursor.clock_s, *(stream.clock_s for stream in self._streams))
        self._ledger.resume(last, clock_s, Ranges(cursor.done))

    def _attempt(
        self, name: str, due_s: float, is_forced: bool, step: Callable[..., None], *given: Any
    ) -> None:
        now_s = self._ledger.clock()
        if due_s == float("inf") or not (
            is_forced or max(due_s, self._retry_at_s.get(name, due_s)) <= now_s
        ):
            return
        try:
            step(*given)
        except OSError as error:
            why = error.strerror or str(error)
            if not self._retry_at_s:
                log.warning("outbox: messages are kept in memory, as the disk fails: %s", why)
            self._retry_at_s[name] = now_s + _RETRY_S
            self._ledger.failure = why
        else:
            if self._retry_at_s.pop(name, None) is not None and not self._retry_at_s:
                log.warning("outbox: messages are kept on disk again")
                self._ledger.failure = ""

    def _write(self, stream: Stream) -> None:
        self._expire()
        self._make_room(stream, self._ledger.tail.unwritten_bytes(stream.kind.number))
        while True:
            try:
                return self._append_all(stream)
            except OSError as error:
                if error.errno != errno.ENOSPC or not self._drop_oldest("disk"):
                    raise

    def _append_all(self, stream: Stream) -> None:
        """Write all of a kind that is not on disk yet."""
        with self._ledger.lock:
            if stream.kind is self._ledger.event:
                self._ledger.tell_gaps()
            records = self._ledger.tail.unwritten(stream.kind.number)
        if not records:
            return
        stream.append(records)
        with self._ledger.lock:
            self._ledger.tail.written(records)
            self._ledger.shrink()
        self.record_count += len(records)

    def _make_room(self, stream: Stream, size: int) -> None:
        while stream.segments and stream.size_bytes + size > stream.kind.max_bytes:
            self._drop(stream, stream.segments[0], "bytes")
        while self._files.free_bytes() < self._ledger.bounds.min_free_bytes + size:
            if self._drop_oldest("disk"):
                continue
            if stream is self._streams[0]:
                raise OSError(errno.ENOSPC, "the disk is full but for what is left to others")
            return

    def _drop_oldest(self, reason: str) -> bool:
        """Give up the oldest of what is given up first."""
        stream = self._streams[0]
        if not stream.segments:
            return False
        self._drop(stream, stream.segments[0], reason)
        return True

    def _drop(self, stream: Stream, segment: Segment, reason: str) -> None:
        """Tell first, then remove: a gap may be told twice, but none is untold."""
        ledger = self._ledger
        with ledger.lock:
            done = Ranges(ledger.done)
        records = [record for record in stream.load(segment) if record.seq not in done]
        if records:
            with ledger.lock:
                ledger.note_gap(Gap(reason, len(records), records[0], records[-1]))
            try:
                self._append_all(self._streams[-1])
            except OSError as error:
                log.debug("a gap is told from memory: %s", error)
        stream.remove(segment)
        with ledger.lock:
            for record in records:
                ledger.tail.remove(record.seq)
                ledger.done.add(record.seq, record.seq)

    def _expire(self) -> None:
        """Segments whose newest is too old; of others, the too old are left out when read."""
        for stream in self._streams:
            oldest_s = self._ledger.clock_s() - stream.kind.max_age_s
            ends_s = [segment.begun_s for segment in stream.segments[1:]] + [stream.clock_s]
            for segment, end_s in zip(list(stream.segments), ends_s, strict=False):
                if end_s < oldest_s:
                    self._drop(stream, segment, "age")

    def _checkpoint(self) -> None:
        """Remove what is done, and note what is done of the rest."""
        with self._ledger.lock:
            done = Ranges(self._ledger.done)
            noted_count = self._ledger.unnoted_count
        for stream in self._streams:
            for segment in list(stream.segments):
                if done.covers(segment.first, segment.last):
                    stream.remove(segment)
        if any(stream.segments for stream in self._streams):
            save(self._files, Cursor(tuple(done), self._ledger.clock_s()))
        with self._ledger.lock:
            self._ledger.noted(noted_count)

    def _tell_broken(self, broken: Broken) -> None:
        size, place = broken.damage.size_bytes, broken.damage.offset
        detail = f"{size} bytes of {broken.segment} at {place} can not be read"
        log.warning("outbox: %s", detail)
        with self._ledger.lock:
            self._ledger.tell(Gap("damaged", None, broken.before, broken.after, detail))

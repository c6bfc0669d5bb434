"""Keeps messages until they are acknowledged, whatever happens to the broker, disk or power."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from edge.core.errors import InputError
from edge.telemetry.outbox.files import Files, Wear
from edge.telemetry.outbox.lanes import Lanes
from edge.telemetry.outbox.ledger import Bounds, Gap, Ledger
from edge.telemetry.outbox.record import MAX_PAYLOAD_BYTES, Record
from edge.telemetry.outbox.stream import Kind
from edge.telemetry.outbox.writer import Writer


class Status(msgspec.Struct, frozen=True):
    """``failure`` says why nothing can be written now; empty when all is well.

    ``waiting_bytes`` are on disk, and in memory beside that.
    """

    is_durable: bool
    failure: str
    waiting_bytes: int
    dropped_count: int
    record_count: int
    wear: Wear


class Outbox:
    """What was accepted comes out again, in order, until it is acknowledged.

    A message is accepted when it was synced: after its kind's ``commit_s``, or when ``commit``
    returns True. One that is acknowledged before costs the flash nothing. Past the last checkpoint
    messages may come twice. Those of this connection (live) and those that waited for it
    (history) are in order each.

    Age is counted on a clock of the outbox's own: the seconds it has run, over all runs. The
    system's clock may jump, and power may be off for years, without a message being given up.

    ``put`` and ``acknowledge`` never wait for the disk, which a `Worker` looks after. Any thread
    may put, one takes. Without ``files`` all stays in memory.

    Args:
        kinds: The first is given up first; messages that tell of a gap are of the last.
        describe: Makes the payload of such a message.
    Raises:
        OSError: The folder can't be listed.
    """

    def __init__(
        self,
        files: Files | None,
        kinds: Sequence[Kind],
        describe: Callable[[Gap], bytes],
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_change: Callable[[], None] | None = None
        self._files = files
        self._ledger = Ledger(kinds, describe, bounds or Bounds(), clock)
        self._writer = Writer(self._ledger, files) if files else None
        self._lanes = Lanes(self._ledger, self._writer)

    @property
    def has_disk(self) -> bool:
        return self._writer is not None

    def put(self, kind: Kind, payload: bytes) -> int:
        """Take a message over; returns its number.

        Raises:
            InputError: It is longer than a record may be.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InputError(f"a message of {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} fit")
        with self._ledger.lock:
            record = self._ledger.add(kind, payload)
            self._ledger.shrink()
        self._changed()
        return record.seq

    def begin(self) -> None:
        """A connection begins: what is not acknowledged goes again, as history if it waited."""
        self._lanes.begin()

    def end(self) -> None:
        """The connection is gone: what was on its way waits again."""
        with self._ledger.lock:
            self._ledger.in_flight.clear()

    def take(self) -> tuple[Record, bool] | None:
        """The next to send, and whether it is history; None if there is none now."""
        return self._lanes.take()

    @property
    def has_history(self) -> bool:
        """Whether `take` may give more by and by, though it gave None."""
        return self._lanes.has_history

    def hold_history(self) -> None:
        """Give only live messages until the next ``begin``; from the thread that takes."""
        self._lanes.has_history = False

    def acknowledge(self, seq: int) -> None:
        with self._ledger.lock:
            self._ledger.acknowledge(seq)
        self._changed()

    def give_up(self, record: Record, reason: str, detail: str) -> None:
        """A message that was taken will never arrive: that is told as a gap."""
        with self._ledger.lock:
            self._ledger.acknowledge(record.seq)
            self._ledger.note_gap(Gap(reason, 1, record, record, detail))
        self._changed()

    def drain(self) -> list[Record]:
        """Give away all that is in memory only, in order, for another outbox to keep."""
        ledger = self._ledger
        with ledger.lock:
            ledger.tell_gaps()
            records = [record for kind in ledger.kinds for record in ledger.tail.unwritten(kind)]
            for record in records:
                ledger.tail.remove(record.seq)
        return sorted(records, key=lambda record: record.seq)

    def adopt(self, records: Sequence[Record]) -> None:
        """Take over what another outbox had to keep in memory, however much it is."""
        with self._ledger.lock:
            for record in records:
                self._ledger.add(self._ledger.kinds[record.kind], record.payload)

    def commit(self) -> bool:
        """Write all that waits in memory; whether all of it is safe now."""
        self.work(is_forced=True)
        with self._ledger.lock:
            unwritten = any(map(self._ledger.tail.oldest_unwritten, self._ledger.kinds))
        return self._writer is not None and not unwritten

    def work(self, *, is_forced: bool = False) -> None:
        """Write and note what is due. Errors of the disk are told in ``status``, not raised."""
        if self._writer:
            self._writer.work(is_forced=is_forced)

    def next_work_s(self) -> float:
        """When `work` has something to do, on the clock; infinite if nothing waits."""
        return self._writer.next_work_s() if self._writer else float("inf")

    def status(self) -> Status:
        ledger, writer = self._ledger, self._writer
        with ledger.lock:
            waiting_bytes = sum(map(ledger.tail.unwritten_bytes, ledger.kinds))
            return Status(
                is_durable=writer is not None and not ledger.failure,
                failure=ledger.failure,
                waiting_bytes=waiting_bytes + (writer.size_bytes if writer else 0),
                dropped_count=ledger.dropped_count,
                record_count=writer.record_count if writer else 0,
                wear=msgspec.structs.replace(self._files.wear) if self._files else Wear(),
            )

    def close(self) -> None:
        """Write what waits and what is done; files are let go. A second call does nothing."""
        if self._writer:
            self._writer.close()

    def _changed(self) -> None:
        if self.on_change:
            self.on_change()

"""In which order messages leave: those that waited for a connection, and those of it."""

from __future__ import annotations

import logging
from collections import deque

from edge.telemetry.outbox.ledger import Ledger
from edge.telemetry.outbox.record import Record
from edge.telemetry.outbox.writer import Writer

log = logging.getLogger(__name__)

_PAUSE_S = 5.0  # before a disk that could not be read is read again


class Lanes:
    """History is what waited for the connection, live what came since; one thread takes.

    History is read from disk and from memory, up to ``_boundary``; live messages come from memory.
    Those that had to leave it before they were taken become history.
    """

    def __init__(self, ledger: Ledger, writer: Writer | None) -> None:
        self._ledger = ledger
        self._writer = writer
        self._urgent: deque[Record] = deque()
        self._boundary = self._live_after = self._history_after = 0
        self.has_history = False
        self._burst = 0
        self._tokens, self._refilled_s = 0.0, 0.0
        self._paused_until_s = 0.0

    def begin(self) -> None:
        ledger = self._ledger
        if self._writer:
            self._writer.rewind()
        with ledger.lock:
            ledger.in_flight.clear()
            self._urgent.clear()
            fresh = ledger.tail.first_fresh(ledger.clock() - ledger.bounds.fresh_s)
            boundary = ledger.last if fresh is None else fresh - 1
            self._boundary = self._live_after = max(boundary, ledger.on_disk_only)
            self._history_after = 0
            self.has_history = True
            self._burst = ledger.bounds.history_burst
            self._tokens, self._refilled_s = 0.0, ledger.clock()

    def take(self) -> tuple[Record, bool] | None:
        with self._ledger.lock:
            self._urgent.extend(self._ledger.tell_gaps())
            if self._urgent:
                return self._flying(self._urgent.popleft()), False
        if self._burst > 0 and (record := self._take_history()):
            self._burst -= 1
            return record, True
        if record := self._take_live():
            return record, False
        if self.has_history and self._refill() >= 1 and (record := self._take_history()):
            self._tokens -= 1
            return record, True
        return None

    def _flying(self, record: Record) -> Record:
        self._ledger.in_flight.add(record.seq)
        return record

    def _take_live(self) -> Record | None:
        ledger = self._ledger
        with ledger.lock:
            if ledger.on_disk_only > self._live_after:
                self._boundary = self._live_after = ledger.on_disk_only
                self.has_history = True
            while record := ledger.tail.first_after(self._live_after):
                self._live_after = record.seq
                if record.seq not in ledger.in_flight:
                    return self._flying(record)
        return None

    def _take_history(self) -> Record | None:
        if not self.has_history or self._ledger.clock() < self._paused_until_s:
            return None
        try:
            return self._next_wanted()
        except OSError as error:
            log.warning("outbox: what waits can not be read now: %s", error)
            self._paused_until_s = self._ledger.clock() + _PAUSE_S
            return None

    def _next_wanted(self) -> Record | None:
        while True:
            after = self._history_after
            stored = self._writer.first_after(after) if self._writer else None
            with self._ledger.lock:
                recent = self._ledger.tail.first_after(after)
                heads = [head for head in (stored, recent) if head and head.seq <= self._boundary]
                record = min(heads, key=lambda head: head.seq, default=None)
                until = record.seq - 1 if record else self._boundary
                self._ledger.pass_over(after + 1, until)
                self._history_after = record.seq if record else until
                if record is None:
                    self.has_history = False
                    self._ledger.to_note(1)
                    return None
                if self._is_wanted(record):
                    return self._flying(record)

    def _is_wanted(self, record: Record) -> bool:
        ledger = self._ledger
        if record.seq in ledger.done or record.seq in ledger.in_flight:
            return False
        if record.clock_s + ledger.kinds[record.kind].max_age_s >= ledger.clock_s():
            return True
        ledger.give_up(record, "age")
        return False

    def _refill(self) -> float:
        """How many of the history may go now."""
        now_s, rate = self._ledger.clock(), self._ledger.bounds.history_per_s
        grown = self._tokens + (now_s - self._refilled_s) * rate
        self._tokens, self._refilled_s = min(grown, max(1.0, rate)), now_s
        return self._tokens

"""Turns at a machine that several models share: whoever has used it least is next."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_now = time.perf_counter_ns


class FairShare:
    """Lets ``concurrency`` batches run at the same time, of whatever models.

    Each model pays with the time it ran, divided by its share; the next turn goes to who has paid
    least. One that was away starts where the least of the others is: silence earns no credit.
    """

    def __init__(self, concurrency: int) -> None:
        self._free = concurrency
        self._lock = threading.Lock()
        self._waiting: list[tuple[Turns, threading.Lock]] = []
        self._paid_least = 0.0

    def turns(self, share: float) -> Turns:
        """The account of one model."""
        return Turns(self, share)

    def acquire(self, turns: Turns) -> None:
        with self._lock:
            if not turns.active:
                turns.paid = max(turns.paid, self._paid_least)
            turns.active += 1
            if self._free:
                self._free -= 1
                self._paid_least = max(self._paid_least, turns.paid)
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append((turns, mine))
        mine.acquire()  # whoever leaves hands its turn over and opens this

    def release(self, turns: Turns, spent_ns: int) -> None:
        with self._lock:
            turns.active -= 1
            turns.paid += spent_ns / turns.share
            if not self._waiting:
                self._free += 1
                return
            index = min(range(len(self._waiting)), key=lambda n: self._waiting[n][0].paid)
            chosen, theirs = self._waiting.pop(index)
            self._paid_least = max(self._paid_least, chosen.paid)
        theirs.release()


class Turns:
    """A context for each batch of one model; several threads may be in it or wait for it."""

    def __init__(self, fair: FairShare, share: float) -> None:
        self.share = share
        self.paid = 0.0
        self.active = 0
        self._fair = fair
        self._mine = threading.local()

    def __enter__(self) -> None:
        self._fair.acquire(self)
        self._mine.start = _now()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._fair.release(self, _now() - self._mine.start)

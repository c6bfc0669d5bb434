"""Turns at a machine that several models share: whoever has used it least is next."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_now = time.perf_counter_ns
_LONG_AGO_NS = 1 << 62


class FairShare:
    """Lets ``concurrency`` batches run at the same time, of whatever models; 0 for any number.

    Each model pays with the time it ran, divided by its share; the next turn goes to who has paid
    least. One that was away starts where the least of the others is: silence earns no credit.

    ``limit`` tightens this meanwhile, and can space out in time how batches start.
    ``is_limited`` and ``why`` say so; while it ``is_open``, nobody need take a turn.
    """

    def __init__(self, concurrency: int = 0) -> None:
        self.is_limited = False
        self.is_open = not concurrency
        self.why = ""
        self._most = concurrency or sys.maxsize
        self._allowed = self._most
        self._running = 0
        self._gap_ns = 0
        self._last_start_ns = -_LONG_AGO_NS
        self._lock = threading.Lock()
        self._paced = threading.Condition(self._lock)
        self._pacer: threading.Thread | None = None
        self._waiting: list[tuple[Turns, threading.Lock]] = []
        self._paid_least = 0.0

    def turns(self, share: float) -> Turns:
        """The account of one model."""
        return Turns(self, share)

    def limit(self, concurrency: int = 0, batches_per_s: float = 0.0, why: str = "") -> None:
        """Let fewer run at the same time and start no more than so many per second; 0 lifts it.

        What runs goes on. What waits for its turn goes on waiting, or gets it now.
        """
        with self._lock:
            self._allowed = min(self._most, concurrency or sys.maxsize)
            self._gap_ns = int(1e9 / batches_per_s) if batches_per_s else 0
            self.is_limited, self.why = bool(concurrency or batches_per_s), why
            self.is_open = self._allowed == sys.maxsize and not self._gap_ns
            if self._gap_ns and self._pacer is None:
                self._pacer = threading.Thread(target=self._pace, name="edge-pace", daemon=True)
                self._pacer.start()
            self._paced.notify()
            if not self._gap_ns:
                self._grant_all()

    def acquire(self, turns: Turns) -> None:
        with self._lock:
            if not turns.active:
                turns.paid = max(turns.paid, self._paid_least)
            turns.active += 1
            # Who comes now goes behind those who wait, of whom the pacer takes care.
            if self._running < self._allowed and not self._gap_ns:
                self._running += 1
                self._paid_least = max(self._paid_least, turns.paid)
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append((turns, mine))
            if self._gap_ns:
                self._paced.notify()
        try:
            mine.acquire()  # whoever leaves hands its turn over and opens this
        except BaseException:  # Ctrl-C on the main thread
            self._forgo(turns, mine)
            raise

    def release(self, turns: Turns, spent_ns: int) -> None:
        with self._lock:
            turns.active -= 1
            turns.paid += spent_ns / turns.share
            self._running -= 1
            self._hand_over()

    def give_back(self) -> None:
        """A turn that nothing was done with: the next one need not wait for its time."""
        with self._lock:
            self._last_start_ns -= self._gap_ns
            self._paced.notify()

    def _hand_over(self) -> None:
        """Called with the lock held, when one has left."""
        if self._gap_ns:
            self._paced.notify()
        elif self._waiting and self._running < self._allowed:
            self._grant()

    def _grant_all(self) -> None:
        while self._waiting and self._running < self._allowed:
            self._grant()

    def _grant(self) -> None:
        index = min(range(len(self._waiting)), key=lambda n: self._waiting[n][0].paid)
        chosen, theirs = self._waiting.pop(index)
        self._paid_least = max(self._paid_least, chosen.paid)
        self._running += 1
        theirs.release()

    def _forgo(self, turns: Turns, mine: threading.Lock) -> None:
        """Who waited does so no more; the turn may have come at the same time."""
        with self._lock:
            turns.active -= 1
            if (turns, mine) in self._waiting:
                self._waiting.remove((turns, mine))
                return
            self._running -= 1
            self._hand_over()

    def _pace(self) -> None:
        """Grants turns one by one, evenly in time, until that limit is lifted."""
        with self._lock:
            while self._gap_ns:
                if not self._waiting or self._running >= self._allowed:
                    self._paced.wait()
                    continue
                now = _now()
                left_ns = self._last_start_ns + self._gap_ns - now
                if left_ns > 0:
                    self._paced.wait(left_ns / 1e9)
                    continue
                # What comes late does not make the next come early: that would be a burst.
                self._last_start_ns = now
                self._grant()
            self._pacer = None
            self._grant_all()


class Turns:
    """A context for each batch of one model; several threads may be in it or wait for it."""

    def __init__(self, fair: FairShare, share: float) -> None:
        self.share = share
        self.paid = 0.0
        self.active = 0
        self.fair = fair
        self._mine = threading.local()

    def __enter__(self) -> None:
        self.fair.acquire(self)
        self._mine.start = _now()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.fair.release(self, _now() - self._mine.start)

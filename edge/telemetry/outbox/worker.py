"""Lets an outbox write on a thread of its own, so that nobody else waits for the disk."""

from __future__ import annotations

import logging
import threading
import time

from edge.telemetry.outbox.outbox import Outbox

log = logging.getLogger(__name__)

_RETRY_S = 5.0  # after a defect of ours


class Worker:
    """Its outbox must go by ``time.monotonic``."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._planned_s = 0.0
        self._is_closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-outbox", daemon=True)
        outbox.on_change = self._look

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Let the outbox write what waits; a disk that hangs is left after ``timeout_s``."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _look(self) -> None:
        if self._outbox.next_work_s() < self._planned_s:
            self._wake.set()

    def _run(self) -> None:
        is_failing = False
        while not self._is_closing:
            try:
                self._outbox.work()
                is_failing = False
                self._planned_s = self._outbox.next_work_s()
            except Exception:
                if not is_failing:
                    log.exception("the outbox failed, and will try again")
                is_failing = True
                self._planned_s = time.monotonic() + _RETRY_S
            self._wait()
        self._outbox.close()

    def _wait(self) -> None:
        """Until the time that was planned, or until something is due before."""
        self._look()  # what came since
        wait_s = max(0.0, self._planned_s - time.monotonic())
        self._wake.wait(min(wait_s, threading.TIMEOUT_MAX))
        self._wake.clear()

"""Keeps one worker alive: starts it, waits for its end, starts it again."""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING

from edge.core.errors import EdgeError, EngineError, UnavailableError
from edge.host.isolation.process import Worker
from edge.host.isolation.restarts import Restarts

if TYPE_CHECKING:
    from edge.host.isolation.limits import Limits
    from edge.host.isolation.wire import Opened, Order

log = logging.getLogger(__name__)

_JOIN_S = 5.0
"""For a thread whose worker has ended; one that a driver holds for ever does not hold us."""


class Supervisor:
    """One thread that lives as long as there is to be a worker.

    ``worker`` is the one that serves, ``current`` also one that is not so far yet.
    """

    def __init__(self, order: Order, limits: Limits) -> None:
        self.name = order.name
        self.limits = limits
        self.worker: Worker | None = None
        self.current: Worker | None = None
        self.failure: EdgeError | None = None
        self.restarts = 0
        self._order = order
        self._opened: Opened | None = None
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(
            target=self._watch, name=f"edge-worker-{order.name}", daemon=True
        )

    def start(self) -> Opened:
        """Start the first worker; one that does not come up is not started again.

        Raises:
            EdgeError: It did not come up.
        """
        self._thread.start()
        with self._changed:
            try:
                self._changed.wait_for(lambda: self._opened or self.failure)
            except BaseException:  # Ctrl-C: nobody else will ever know of the worker
                self._is_closing = True
                if self.current is not None:
                    self.current.kill()
                raise
        if self._opened is None:
            self._thread.join()
            assert self.failure is not None
            raise self.failure
        return self._opened

    def wait(self, deadline_s: float) -> Worker:
        """The worker, once there is one.

        Raises:
            UnavailableError: There is none in time, will never be, or the session is closed.
        """
        with self._changed:
            while True:
                if self._is_closing:
                    raise UnavailableError("this session is closed")
                if self.failure is not None:
                    raise UnavailableError(str(self.failure), hint=self.failure.hint)
                if self.worker is not None:
                    return self.worker
                if not self._changed.wait(max(0.0, deadline_s - monotonic())):
                    raise UnavailableError(
                        f"{self.name} waits for its worker, which is started again",
                        hint="try again later",
                    )

    def retire(self, worker: Worker) -> None:
        """Give a worker to nobody any more, which does not answer."""
        with self._changed:
            if self.worker is worker:
                self.worker = None

    def refuse(self) -> None:
        """Give no worker to anybody any more."""
        with self._changed:
            self._is_closing = True
            self.worker = None
            self._changed.notify_all()

    def close(self) -> None:
        """End the worker and wait until it is gone."""
        self.refuse()
        current = self.current
        if current is not None:
            current.stop()
        self._thread.join(_JOIN_S)

    def abandon(self) -> None:
        """``close`` at once and without waiting, for a garbage collector."""
        self._is_closing = True
        current = self.current
        if current is not None:
            current.kill()

    def _watch(self) -> None:
        policy = Restarts(self.limits)
        while True:
            start_s = monotonic()
            end = self._live()
            now_s = monotonic()
            if self._is_closing:
                return
            delay_s = None if self._opened is None else policy.after_death(now_s, now_s - start_s)
            with self._changed:
                if delay_s is None:
                    self._give_up(end)
                    return
                log.warning("%s; it is started again in %.1f s", end, delay_s)
                if self._changed.wait_for(lambda: self._is_closing, delay_s):
                    return
                self.restarts += 1

    def _live(self) -> EdgeError:
        """One worker's life, and how it ended."""
        limits = self.limits
        timeout_s = limits.start_timeout_s if self._opened else limits.first_timeout_s
        try:
            worker = Worker(self._order, self.limits)
        except EdgeError as error:
            return error
        with self._changed:
            self.current = worker
            is_closing = self._is_closing
        if is_closing:
            worker.kill()
        try:
            self._publish(worker, worker.opened(timeout_s))
            return worker.wait()
        except Exception as error:
            worker.kill()
            worker.wait()
            if isinstance(error, EdgeError):
                return error
            return EngineError(f"the worker of {self.name} says what nobody understands: {error}")
        finally:
            with self._changed:
                self.worker = self.current = None

    def _publish(self, worker: Worker, opened: Opened) -> None:
        """Let runs have the worker.

        Raises:
            UnavailableError: It runs elsewhere than the first one did, which nobody agreed to.
        """
        first = self._opened or opened
        if _where(opened) != _where(first):
            raise UnavailableError(
                f"{self.name} came back on {opened.placement.actual} instead of "
                f"{first.placement.actual}: {opened.placement.reason}"
            )
        with self._changed:
            if not self._is_closing:
                self.worker, self._opened = worker, opened
            self._changed.notify_all()

    def _give_up(self, end: EdgeError) -> None:
        """Called with the lock held."""
        if self._opened is None:
            self.failure = end
        else:
            limits = self.limits
            self.failure = UnavailableError(
                f"{self.name} failed: its worker ended {limits.deaths} times within "
                f"{limits.window_s:g} s, the last time so: {end}",
                hint="unload the model and load it again",
            )
            log.error("%s", self.failure)
        self._changed.notify_all()


def _where(opened: Opened) -> tuple[str, str, bool]:
    placement = opened.placement
    return placement.actual, placement.precision, placement.is_fallback

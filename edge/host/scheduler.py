"""The threads of one model: what waits runs at once when one is idle, together when none was."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from edge.core.errors import EdgeError, InputError, UnavailableError
from edge.host.batching import Admission, BatchBuffer, split
from edge.host.queueing import Request, RequestQueue

if TYPE_CHECKING:
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from edge.core.tensor import Array, Feeds
    from edge.host.batching import BatchPlan
    from edge.host.fairness import Turns
    from edge.host.seat import Seat, Sitting
    from edge.host.statistics import Statistics
    from edge.settings import ModelSettings

    Ended = tuple[Request, dict[str, Array] | BaseException]

log = logging.getLogger(__name__)

_now = time.perf_counter_ns
_NO_TURN = nullcontext()


class Scheduler:
    """Runs requests on ``settings.instances`` threads, which start with the first request.

    An idle instance takes what waits. Only if ``max_delay_us`` allows it, and the last batches
    were larger than what waits now, it waits for as many; but not with a request in a hurry.
    Each batch runs within ``turns``, which may let other models go first.
    """

    def __init__(
        self,
        name: str,
        seat: Seat,
        settings: ModelSettings,
        statistics: Statistics,
        *,
        turns: Turns | None = None,
    ) -> None:
        self._name = name
        self._seat = seat
        self._admission = Admission(seat.plan)
        self._settings = settings
        self._statistics = statistics
        self._turns = turns
        self._fair = turns.fair if turns else None
        self._queue = RequestQueue(settings.queue)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._waiting_threads = 0
        self._gathering_threads = 0
        self._expected_rows = 1
        self._is_closed = False

    @property
    def plan(self) -> BatchPlan:
        return self._seat.plan

    def configure(self, settings: ModelSettings) -> None:
        """Wait for company by other settings from now on; threads and the queue's length stay."""
        with self._changed:
            self._settings = settings
            self._changed.notify_all()

    def submit(
        self,
        feeds: Feeds,
        *,
        priority: int = 0,
        timeout_us: int = 0,
        future: Future[dict[str, Array]] | None = None,
    ) -> Future[dict[str, Array]]:
        """Let a request wait for its turn; its future says what is wrong with it.

        Args:
            future: One to give the answer to; else a new one.
        Raises:
            UnavailableError: The model is closed, or too many requests wait.
        """
        now = _now()
        request = Request(feeds, now, future)
        future = request.future
        try:
            request.demand(priority, timeout_us)
            plan = self.plan
            if plan.is_on:
                if self._admission.plan is not plan:  # another session is seated, or will be
                    self._admission = Admission(plan)
                self._admission.admit(request)
        except InputError as error:
            self._statistics.failure(_now() - now, error)
            future.set_exception(error)
            return future
        with self._changed:
            if self._is_closed:
                raise UnavailableError(f"model {self._name} is closed", hint="load it again")
            if not self._threads:
                self._start()
            late = self._queue.purge(now) if self._queue.is_full else []
            loser = self._queue.add(request)
            # Who waits for company is woken when it is there: eight wake-ups for a batch of eight
            # cost more than a small model does.
            if self._waiting_threads and (not self._gathering_threads or self._has_enough()):
                self._changed.notify()
        self._refuse(late)
        if loser is not None:
            self._statistics.refused("full")
            if loser is request:
                raise self._full()
            if loser.future.set_running_or_notify_cancel():
                loser.future.set_exception(self._full())
        return future

    def close(self) -> None:
        """Finish what was submitted, and end the threads."""
        self._end()
        self._join()

    def forget(self) -> None:
        """The same when nobody holds the model any more, and without waiting: this may be called
        by the garbage collector, anywhere. Only at the program's end there is nothing else to do.
        """
        self._end()
        if not threading.main_thread().is_alive():
            self._join()

    def _end(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _join(self) -> None:
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _start(self) -> None:
        """Called with the lock held. Daemons: whoever owns the model closes it at the very end."""
        for number in range(self._settings.instances):
            name = f"edge-{self._name}_{number}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        buffer = BatchBuffer()
        while self._wait_for_work():
            self._serve_one(buffer)  # a call of its own: its arrays go when it returns

    def _serve_one(self, buffer: BatchBuffer) -> None:
        try:
            sitting = self._seat.take_ready()  # before its turn: nobody else need wait for that
        except Exception as error:
            batch, late = self._take(1)
            ended: list[Ended] = [(request, error) for request in batch]
            for request in batch:
                self._statistics.failure(_now() - request.submitted_ns, error)
        else:
            try:
                with self._turn():
                    batch, late = self._take(sitting.plan.max_rows)
                    ended = self._run(sitting, batch, buffer) if batch else []
                if not batch and self._fair is not None:
                    self._fair.give_back()
            finally:
                self._seat.give(sitting)
        self._refuse(late)
        for request, answer in ended:  # others have their turn: what is called may take long
            if isinstance(answer, BaseException):
                request.future.set_exception(answer)
            else:
                request.future.set_result(answer)

    def _turn(self) -> AbstractContextManager[None]:
        if self._turns is None or self._turns.fair.is_open:
            return _NO_TURN
        return self._turns

    def _wait_for_work(self) -> bool:
        """Until there is something to run, and enough of it; False if nothing will ever come."""
        idle_since = _now()
        with self._changed:
            while True:
                while not len(self._queue):
                    if self._is_closed:
                        return False
                    self._wait()
                while len(self._queue) and (patience_s := self._patience_s(idle_since)) > 0:
                    self._gathering_threads += 1
                    self._wait(patience_s)
                    self._gathering_threads -= 1
                if len(self._queue):
                    return True

    def _take(self, max_rows: int) -> tuple[list[Request], list[Request]]:
        """What to run, and what it is too late for; another instance may have been faster."""
        with self._changed:
            taken = self._queue.take(max_rows, _now())
            if len(self._queue) and self._waiting_threads:
                self._changed.notify()
            return taken

    def _wait(self, timeout_s: float | None = None) -> None:
        self._waiting_threads += 1
        self._changed.wait(timeout_s)
        self._waiting_threads -= 1

    def _patience_s(self, idle_since_ns: int) -> float:
        """How long to wait for company from now on; what passed while it was busy is no excuse."""
        delay_us = self._settings.max_delay_us
        if not delay_us or self._is_closed or self._has_enough():
            return 0.0
        begin = max(self._queue.head.submitted_ns, idle_since_ns)
        return (begin + delay_us * 1000 - _now()) / 1e9

    def _has_enough(self) -> bool:
        wanted = min(self._expected_rows, self.plan.max_rows)
        return self._queue.rows >= wanted or self._queue.head.has_deadline

    def _run(self, sitting: Sitting, batch: list[Request], buffer: BatchBuffer) -> list[Ended]:
        start = _now()
        try:
            answers = _answers(sitting, batch, buffer)
        except BaseException as error:
            if len(batch) > 1:  # one may be to blame, and only that one is to fail
                log.debug("%s: a batch of %d failed: %s", self._name, len(batch), error)
                return [end for request in batch for end in self._run(sitting, [request], buffer)]
            self._statistics.failure(_now() - batch[0].submitted_ns, error)
            return [(batch[0], error)]
        spent = _now() - start
        if len(batch) > 1:
            self._statistics.batch(len(batch), spent)
        for request in batch:
            self._statistics.success(spent, start - request.submitted_ns)
        # Those who get their answer now are likely to be back soon.
        self._expected_rows = sum(request.rows for request in batch) + self._queue.rows
        return list(zip(batch, answers, strict=True))

    def _refuse(self, late: list[Request]) -> None:
        for request in late:
            if request.future.set_running_or_notify_cancel():
                self._statistics.refused("late")
                waited_ms = (_now() - request.submitted_ns) / 1e6
                error = UnavailableError(
                    f"the request's timeout passed while it waited {waited_ms:.1f} ms for "
                    f"{self._name}{self._held_back()}",
                    hint="give it more time, or send less at once",
                )
                request.future.set_exception(error)

    def _held_back(self) -> str:
        """Why requests wait longer than they would, if there is a reason."""
        why = self._fair.why if self._fair is not None else ""
        return f"; {why}" if why else ""

    def _full(self) -> EdgeError:
        return UnavailableError(
            f"{self._queue.limit} requests wait for {self._name} already{self._held_back()}",
            hint=f"send less at once, or raise queue in [models.{self._name}] of edge.toml",
        )


def _answers(sitting: Sitting, batch: list[Request], buffer: BatchBuffer) -> list[dict[str, Array]]:
    run, plan = sitting.run, sitting.plan
    is_padded = plan.is_padded and batch[0].kind is not None
    if len(batch) == 1 and not is_padded:
        return [run(batch[0].feeds)]
    rows = [request.rows for request in batch]
    total = plan.max_rows if is_padded else sum(rows)
    feeds = buffer.fill([request.feeds for request in batch], total, plan.max_rows)
    return split(run(feeds), rows, total)

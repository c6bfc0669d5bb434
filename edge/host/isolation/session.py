"""A session whose engine runs in a process of its own, which comes back when it ends."""

from __future__ import annotations

import sys
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING

from edge.core.contracts import Session, WorkerStatus
from edge.core.errors import EdgeError, EngineError, UnsupportedError
from edge.host.isolation.lane import NoAnswerError, NotSentError
from edge.host.isolation.limits import Limits
from edge.host.isolation.process import passed_bytes, resident_bytes
from edge.host.isolation.supervisor import Supervisor

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds
    from edge.host.isolation.process import Worker
    from edge.host.isolation.wire import Opened, Order

_TIMEOUT_HINT = "raise the model's timeout_s if that is not too long for it"


def open_isolated(order: Order, limits: Limits | None = None) -> IsolatedSession:
    """Start a worker and let it open a variant.

    Raises:
        UnsupportedError: This system has no memory that processes can share as needed.
        EngineError: The worker ended, or did not come up in time.
        EdgeError: What the backend raised.
    """
    if sys.platform != "linux":
        raise UnsupportedError(
            f"isolation is not there on {sys.platform}", hint='use isolation = "inproc"'
        )
    supervisor = Supervisor(order, limits or Limits())
    return IsolatedSession(supervisor, supervisor.start())


class IsolatedSession(Session):
    """Runs in a worker; ``limits.lanes`` threads at the same time, others wait for one of them."""

    def __init__(self, supervisor: Supervisor, opened: Opened) -> None:
        self.inputs = opened.inputs
        self.outputs = opened.outputs
        self.placement = opened.placement
        self._supervisor = supervisor
        self._limits = supervisor.limits
        self._turns = threading.Semaphore(self._limits.lanes)
        self._closing = threading.Lock()
        # The threads know of the supervisor alone: a session that is forgotten ends its worker.
        self._forgotten = weakref.finalize(self, supervisor.abandon)

    @property
    def pid(self) -> int:
        """Of the worker that runs, or is on its way; 0 if there is none."""
        worker = self._supervisor.current
        return 0 if worker is None or worker.is_reaped else worker.pid

    @property
    def restarts(self) -> int:
        return self._supervisor.restarts

    @property
    def failure(self) -> EdgeError | None:
        """Why there will be no worker any more."""
        return self._supervisor.failure

    def resident_bytes(self) -> int:
        """What the worker holds now."""
        pid = self.pid
        return resident_bytes(pid) if pid else 0

    def outside_bytes(self) -> int:
        return self.resident_bytes()

    def outside_peak_bytes(self) -> int:
        pid = self.pid
        return self.resident_bytes() + max(0, passed_bytes(pid) if pid else 0)

    def worker_status(self) -> WorkerStatus:
        failure = str(self.failure or "")
        return WorkerStatus(self.pid, self.restarts, self.resident_bytes(), failure)

    def await_ready(self) -> None:
        if self._supervisor.worker is None:
            self._supervisor.wait(monotonic() + self._limits.start_timeout_s)

    def close(self) -> None:
        """Let runs end for a while, and end the worker for certain."""
        with self._closing:
            self._supervisor.refuse()
            deadline_s = monotonic() + self._limits.close_timeout_s
            for _ in range(self._limits.lanes):
                self._turns.acquire(timeout=max(0.0, deadline_s - monotonic()))
            self._supervisor.close()
            self._turns.release(self._limits.lanes)
            self._forgotten.detach()

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        with self._turns:
            deadline_s = 0.0
            while True:
                worker = self._supervisor.worker
                if worker is None:
                    deadline_s = deadline_s or monotonic() + self._limits.start_timeout_s
                    worker = self._supervisor.wait(deadline_s)
                try:
                    return self._run_on(worker, feeds)
                except NotSentError:  # it ended before, and nobody has seen it yet
                    self._supervisor.retire(worker)
                    worker.why_it_ended()

    def _run_on(self, worker: Worker, feeds: Feeds) -> dict[str, Array]:
        lane = worker.take_lane()
        try:
            outputs = lane.run(feeds)
        except EdgeError:
            worker.give_lane(lane)
            raise
        except NoAnswerError as error:
            self._supervisor.retire(worker)
            worker.drop_lane(lane)
            if error.is_late:
                worker.kill(f"took more than {self._limits.timeout_s:g} s for a run")
            end = worker.why_it_ended()
            hint = _TIMEOUT_HINT if error.is_late else end.hint
            raise EngineError(str(end), hint=hint) from None
        except BaseException:
            worker.drop_lane(lane)
            raise
        worker.give_lane(lane)
        return outputs

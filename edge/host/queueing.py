"""Requests that wait for a model, the most urgent first."""

from __future__ import annotations

import heapq
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from edge.core.errors import InputError

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds

DEFAULT_PRIORITY = 10
"""What priority 0 stands for: 1 to 9 go before it, what is above goes after it."""

_NEVER = 1 << 63


class Request:
    """Feeds and who waits for their answer; times are those of ``time.perf_counter_ns``.

    Requests of one ``kind`` can run as one batch; None runs alone.
    """

    __slots__ = ("deadline_ns", "feeds", "future", "kind", "priority", "rows", "submitted_ns")

    def __init__(
        self, feeds: Feeds, submitted_ns: int, future: Future[dict[str, Array]] | None = None
    ) -> None:
        self.feeds = feeds
        self.future: Future[dict[str, Array]] = Future() if future is None else future
        self.kind: tuple[Any, ...] | None = None
        self.rows = 1
        self.submitted_ns = submitted_ns
        self.priority = DEFAULT_PRIORITY
        self.deadline_ns = _NEVER

    def demand(self, priority: int, timeout_us: int) -> None:
        """Ask for a turn before or after others (1 is first), and in time; 0 asks for nothing.

        Raises:
            InputError: One is negative.
        """
        if priority < 0 or timeout_us < 0:
            raise InputError(f"priority {priority} and timeout {timeout_us} must not be negative")
        if priority:
            self.priority = priority
        if timeout_us:
            self.deadline_ns = self.submitted_ns + timeout_us * 1000

    @property
    def has_deadline(self) -> bool:
        return self.deadline_ns != _NEVER


class RequestQueue:
    """At most ``limit`` requests; whoever calls it holds a lock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.rows = 0
        self._heap: list[tuple[int, int, Request]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def is_full(self) -> bool:
        return len(self._heap) >= self.limit

    @property
    def head(self) -> Request:
        """The next one; there must be one."""
        return self._heap[0][2]

    def add(self, request: Request) -> Request | None:
        """Let a request wait; gives the one that has to go for it, if the queue is full.

        That is the last of the least urgent ones, which may be ``request`` itself.
        """
        loser = None
        if self.is_full:
            last = max(self._heap)
            loser = last[2]
            if request.priority >= loser.priority:
                return request
            self._heap.remove(last)
            heapq.heapify(self._heap)
            self.rows -= loser.rows
        self._count += 1
        self.rows += request.rows
        heapq.heappush(self._heap, (request.priority, self._count, request))
        return loser

    def purge(self, now_ns: int) -> list[Request]:
        """Drop who waits no more, and give back those for whom it is too late."""
        late = [entry[2] for entry in self._heap if entry[2].deadline_ns <= now_ns]
        self._heap = [
            entry
            for entry in self._heap
            if entry[2].deadline_ns > now_ns and not entry[2].future.cancelled()
        ]
        heapq.heapify(self._heap)
        self.rows = sum(entry[2].rows for entry in self._heap)
        return late

    def take(self, max_rows: int, now_ns: int) -> tuple[list[Request], list[Request]]:
        """The next batch, of which no future can be cancelled any more, and who is too late.

        Others of the first one's kind join it, up to ``max_rows``; the rest keep their turn.
        """
        batch: list[Request] = []
        late: list[Request] = []
        aside: list[tuple[int, int, Request]] = []
        rows = 0
        while self._heap and rows < max_rows:
            entry = heapq.heappop(self._heap)
            request = entry[2]
            if request.deadline_ns <= now_ns:
                late.append(request)
            elif batch and (request.kind != batch[0].kind or rows + request.rows > max_rows):
                aside.append(entry)
                continue
            elif request.future.set_running_or_notify_cancel():
                batch.append(request)
                rows += request.rows
            self.rows -= request.rows
            if batch and batch[0].kind is None:
                break
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return batch, late

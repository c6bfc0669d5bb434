"""Who runs next: within a lane one after the other, and only so many at once."""

from __future__ import annotations

from typing import Protocol

_MOST_AT_ONCE = 4


class Job(Protocol):
    @property
    def lane(self) -> str: ...

    def start(self) -> None:
        """It is its turn; returns at once."""
        ...


class Lanes:
    """Jobs in the order in which they came; one thread uses it."""

    def __init__(self, most_waiting: int, most_at_once: int = _MOST_AT_ONCE) -> None:
        self._most_waiting = most_waiting
        self._most_at_once = most_at_once
        self._waiting: list[Job] = []
        self._running: list[Job] = []

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self._most_waiting

    def add(self, job: Job) -> None:
        self._waiting.append(job)
        self._start()

    def remove(self, job: Job) -> bool:
        """Whether it had not begun, and now never will."""
        if job not in self._waiting:
            return False
        self._waiting.remove(job)
        return True

    def end(self, job: Job) -> None:
        self._running.remove(job)
        self._start()

    def _start(self) -> None:
        taken = {job.lane for job in self._running}
        for job in list(self._waiting):
            if len(self._running) >= self._most_at_once:
                return
            if job.lane not in taken:
                self._waiting.remove(job)
                self._running.append(job)
                job.start()
            taken.add(job.lane)

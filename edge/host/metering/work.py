"""What models did between two looks at their statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edge.host.statistics import Snapshot
    from edge.host.status import ModelStatus

Key = tuple[str, str]
"""Name and version of a model."""

_UNSETTLED = ("loading", "building", "warming")


class Work(NamedTuple):
    """Counts, and nanoseconds in the engine, which ran ``busy_ns`` in all.

    Requests that ran ``alone`` took ``alone_ns``; those that were ``batched`` with others took
    ``batched_ns``, where a batch counts once. The cache ``recalled`` answers.
    """

    inferences: int = 0
    busy_ns: int = 0
    alone: int = 0
    alone_ns: int = 0
    batched: int = 0
    batched_ns: int = 0
    recalled: int = 0

    def plus(self, more: Work) -> Work:
        return Work(*(one + other for one, other in zip(self, more, strict=True)))

    def since(self, earlier: Work) -> Work:
        """What came after ``earlier``."""
        return Work(*(max(0, now - then) for now, then in zip(self, earlier, strict=True)))


def added(one: dict[Key, Work], other: dict[Key, Work]) -> dict[Key, Work]:
    keys = dict.fromkeys((*one, *other))
    return {key: one.get(key, Work()).plus(other.get(key, Work())) for key in keys}


class WorkMeter:
    """Differences of statistics. What was done before the first look is nobody's.

    Attributes:
        running: Models with an inference in flight, whose time is counted when it ends.
        is_quiet: Whether since the last look nothing ran, and nothing was loaded or built.
    """

    def __init__(self) -> None:
        self.running: set[Key] = set()
        self.is_quiet = False
        self._highest: dict[Key, Work] | None = None

    def advance(self, statuses: Iterable[ModelStatus]) -> dict[Key, Work]:
        """What each model did since the last call, if it did anything."""
        was_running = bool(self.running)
        now: dict[Key, Work] = {}
        self.running = set()
        is_settled = True
        for status in statuses:
            key = (status.name, status.version)
            is_settled = is_settled and status.state not in _UNSETTLED and not status.building
            if status.statistics is not None:
                now[key] = _work(status.statistics)
                if status.statistics.is_running:
                    self.running.add(key)
        if self._highest is None:
            self._highest = now
            return {}
        done = {key: rise for key, work in now.items() if any(rise := self._rise(key, work))}
        self._highest = {key: self._highest[key] for key in now}
        self.is_quiet = is_settled and not (done or self.running or was_running)
        return done

    def _rise(self, key: Key, now: Work) -> Work:
        """Over the highest figures so far: while a batch is being counted some fall for a moment.

        All of it if the counters began anew, as those of a model that was loaded afresh.
        """
        assert self._highest is not None
        before = self._highest.get(key, Work())
        if now.inferences < before.inferences:
            before = Work()
        self._highest[key] = Work(*map(max, now, before))
        return now.since(before)


def _work(snapshot: Snapshot) -> Work:
    batches, cache = snapshot.batches, snapshot.cache
    together = [(size, batch) for size, batch in batches.items() if size > 1]
    alone = batches.get(1)
    return Work(
        inferences=snapshot.success_count,
        busy_ns=sum(batch.total_ns for batch in batches.values()),
        alone=alone.count if alone else 0,
        alone_ns=alone.total_ns if alone else 0,
        batched=sum(size * batch.count for size, batch in together),
        batched_ns=sum(batch.total_ns for _, batch in together),
        recalled=cache.hits + cache.perceptual if cache else 0,
    )

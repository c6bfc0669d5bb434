"""What models did between two looks at their statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edge.host.statistics import Snapshot
    from edge.host.status import ModelStatus

Key = tuple[str, str]
"""Name and version of a model."""

_TRANSFER = ("input", "output")
_UNSETTLED = ("loading", "building", "warming")


class Work(NamedTuple):
    """Counts, and nanoseconds: ``engine_ns`` in the engine, where a batch counts once, and
    ``transfer_ns`` for inputs and outputs, also of the answers that the cache ``recalled``.

    Requests that ran ``alone`` took ``alone_ns`` of the engine, those that were ``batched`` with
    others ``batched_ns``.
    """

    inferences: int = 0
    engine_ns: int = 0
    transfer_ns: int = 0
    alone: int = 0
    alone_ns: int = 0
    batched: int = 0
    batched_ns: int = 0
    recalled: int = 0

    @property
    def busy_ns(self) -> int:
        return self.engine_ns + self.transfer_ns

    @property
    def has_run(self) -> bool:
        return self.inferences > 0 and self.busy_ns > 0

    @property
    def engine_share(self) -> float:
        """What an inference takes in the engine, of all that was done; 0 if none was."""
        return self.engine_ns / self.inferences / self.busy_ns if self.has_run else 0.0

    @property
    def transfer_share(self) -> float:
        """What the inputs and outputs of an answer take, of all that was done."""
        answers = self.inferences + self.recalled
        return self.transfer_ns / answers / self.busy_ns if answers and self.busy_ns else 0.0

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
        engine_ns=sum(batch.total_ns for batch in batches.values()),
        transfer_ns=sum(snapshot.stages[name].total_ns for name in _TRANSFER if snapshot.stages),
        alone=alone.count if alone else 0,
        alone_ns=alone.total_ns if alone else 0,
        batched=sum(size * batch.count for size, batch in together),
        batched_ns=sum(batch.total_ns for _, batch in together),
        recalled=cache.hits + cache.perceptual if cache else 0,
    )

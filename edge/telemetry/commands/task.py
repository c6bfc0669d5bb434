"""A command on its way: what it says, how far it is, and the thread that runs it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from edge.core.errors import EdgeError
from edge.telemetry import clock
from edge.telemetry.commands.journal import Journal
from edge.telemetry.commands.order import Key, Order, RefusedError, failure
from edge.telemetry.commands.verb import (
    Context,
    Interrupted,
    Progress,
    Result,
    Surroundings,
    Verb,
)

log = logging.getLogger(__name__)

_TELL_S = 1.0
Outcome = Result | BaseException


class Starter(Protocol):
    """Who is told that it is a task's turn."""

    def begin(self, task: Task) -> None: ...


class Task:
    """``answer`` is what stands in the command's topic while it runs.

    ``is_watched`` until the operator clears the topic.
    """

    def __init__(
        self,
        starter: Starter,
        key: Key,
        verb: Verb[Any],
        arguments: Any,
        order: Order,
        *,
        is_live: bool = True,
        notes: dict[str, Any] | None = None,
    ) -> None:
        self.key = key
        self.order = order
        self.is_live = is_live
        self.is_resumed = notes is not None
        self.is_watched = True
        self.withdrawn = threading.Event()
        self._starter = starter
        self._verb = verb
        self._arguments = arguments
        self._notes = notes or {}
        self._progress: dict[str, Any] = {}
        self._told = self._progress
        self._told_s = 0.0
        self._thread: threading.Thread | None = None

    @property
    def lane(self) -> str:
        return self._verb.lane(self._arguments)

    @property
    def fields(self) -> dict[str, Any]:
        return self.order.fields

    @property
    def has_begun(self) -> bool:
        return self._thread is not None

    @property
    def answer(self) -> dict[str, Any]:
        return {**self.fields, **self._told, "status": "executing", "ts_ms": clock.now_ms()}

    def start(self) -> None:
        self._starter.begin(self)

    def has_news(self, now_s: float) -> bool:
        """Whether there is progress to tell; it is part of ``answer`` then."""
        if self._progress is self._told or now_s - self._told_s < _TELL_S:
            return False
        self._told, self._told_s = self._progress, now_s
        return True

    def context(self, around: Surroundings, closing: threading.Event) -> Context:
        return Context(around, self.key[1], self.is_resumed, self._notes, self.withdrawn, closing)

    def run(
        self,
        around: Surroundings,
        journal: Journal,
        closing: threading.Event,
        ended: Callable[[Outcome], None],
    ) -> None:
        """Run it on a thread, which gives the outcome to ``ended``."""
        context = self.context(around, closing)
        progress = Progress(self._tell, lambda notes: journal.note(self.key, notes))

        def work() -> None:
            outcome: Outcome
            try:
                outcome = self._verb.run(context, self._arguments, progress)
            except BaseException as error:
                if not isinstance(error, (EdgeError, Interrupted)):
                    log.exception("command %s/%s failed", *self.key)
                outcome = error
            ended(outcome)

        name = f"edge-command-{self.key[0]}"
        self._thread = threading.Thread(target=work, name=name, daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _tell(self, progress: dict[str, Any]) -> None:
        self._progress = progress


class Turn:
    """The use of a lane by something else than a command."""

    def __init__(self, lane: str) -> None:
        self.lane = lane
        self.granted = threading.Event()

    def start(self) -> None:
        self.granted.set()


def encoded(outcome: Outcome, most_bytes: int) -> dict[str, Any]:
    """What an answer says of an outcome; a result that can't be told is a failure."""
    if isinstance(outcome, BaseException):
        return failure(outcome)
    try:
        size = len(msgspec.json.encode(outcome))
    except (TypeError, ValueError, RecursionError) as error:
        return failure(error)
    if size > most_bytes:
        return failure(
            RefusedError(
                f"it was done, but its result has {size} bytes, allowed are {most_bytes}",
                kind="failed",
                hint="raise max_payload_bytes in [commands] of edge.toml",
            )
        )
    return {"status": "successful", "result": outcome}

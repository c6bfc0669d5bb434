"""Takes commands in, runs them on threads of their own, and tells what came of them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from edge.telemetry import clock
from edge.telemetry.commands import order as orders
from edge.telemetry.commands.answers import Answers
from edge.telemetry.commands.events import Events
from edge.telemetry.commands.journal import Entry, Journal
from edge.telemetry.commands.judging import Judge
from edge.telemetry.commands.lanes import Lanes
from edge.telemetry.commands.order import Key, Order, RefusedError
from edge.telemetry.commands.task import Outcome, Task, Turn, encoded
from edge.telemetry.commands.verb import Interrupted, Surroundings, Verb

if TYPE_CHECKING:
    from edge.telemetry.link import Received

log = logging.getLogger(__name__)

_MOST_MESSAGES = 256  # that wait to be looked at
_LONGEST = 4  # times what a command may have: an answer of ours, and its result, comes back whole
_LOOK_S = 0.5  # how often progress is told
_MOST_CLEARED = 64
_REST_S = 60.0  # how often what is too old is forgotten

_INTERRUPTED = RefusedError("interrupted by a restart", kind="interrupted")


class Dispatcher:
    """One thread judges what comes and keeps the journal; up to four run commands.

    A command begins once that is in the journal, and its end is told once that is. What is refused
    never began and leaves no trace: the same again is judged anew.
    """

    def __init__(self, around: Surroundings, verbs: dict[str, Verb[Any]], journal: Journal) -> None:
        self._around = around
        self._judge = Judge(around.settings.commands, verbs)
        self._rights = around.settings.commands
        self._verbs = verbs
        self._journal = journal
        self._answers = Answers(around.sender)
        self._events = Events(around.sender, around.topics)
        self._lanes = Lanes(self._rights.queue)
        self._tasks: dict[Key, Task] = {}
        self._cleared: deque[Key] = deque(maxlen=_MOST_CLEARED)
        self._root = f"{around.topics.of('cmd')}/"
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(_MOST_MESSAGES)
        self._missed_count = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-commands", daemon=True)

    def listen(self) -> None:
        self._around.sender.listen(f"{self._root}#", self.hear)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Begin nothing more; what runs has ``timeout_s`` to end, or it ends with the process."""
        deadline_s = time.monotonic() + timeout_s
        self._closing.set()
        for task in list(self._tasks.values()):
            task.join(max(0.0, deadline_s - time.monotonic()))
        self._post(lambda: None)
        self._thread.join(max(0.0, deadline_s - time.monotonic()))

    def hear(self, received: Received) -> None:
        """Take a message from the broker; called on the thread that talks to it."""
        verb, _, tail = received.topic.removeprefix(self._root).partition("/")
        id_, *path = tail.split("/")
        if path:
            known = self._verbs.get(verb)
            if known is not None and (verb, id_) in self._tasks:
                known.receive(id_, tuple(path), received.payload)
        elif self._room.acquire(blocking=False):
            short = received.payload[: _LONGEST * self._rights.max_payload_bytes]
            received = msgspec.structs.replace(received, payload=short)
            self._post(partial(self._take, received, (verb, id_)))
        else:
            self._missed_count += 1

    @contextmanager
    def turn(self, lane: str) -> Iterator[None]:
        """Within it no command of that lane runs; called on any other thread.

        Raises:
            Interrupted: This process ends.
        """
        turn = Turn(lane)
        self._post(partial(self._lanes.add, turn))
        while not turn.granted.wait(_LOOK_S):
            if self._closing.is_set():
                raise Interrupted
        try:
            yield
        finally:
            self._post(partial(self._lanes.end, turn))

    def _post(self, work: Callable[[], None]) -> None:
        self._inbox.put(work)

    def _run(self) -> None:
        self._guard(self._recover)
        while not (self._closing.is_set() and self._inbox.empty()):
            try:
                work = self._inbox.get(timeout=_LOOK_S if self._tasks else _REST_S)
            except queue.Empty:
                work = self._rest
            self._guard(work)
            self._guard(self._tell_progress)

    def _guard(self, work: Callable[[], None]) -> None:
        """A defect costs one message, not the commands to come."""
        try:
            work()
        except Exception:
            log.exception("a command could not be handled")

    def _rest(self) -> None:
        self._journal.keep()
        for key in self._journal.prune(clock.now_ms(), is_synchronized=clock.is_synchronized()):
            self._answers.drop(self._topic(key))

    # What comes in

    def _take(self, received: Received, key: Key) -> None:
        self._room.release()
        missed, self._missed_count = self._missed_count, 0
        if missed:
            self._events.oddity(self._root, f"{missed} commands came too fast to be looked at")
        if not received.payload:
            self._clear(key)
        elif self._answers.is_echo(received.topic, received.payload):
            self._around.sender.backlog.commit()  # its event, before it is not sent any more
            self._journal.told(key)
        else:
            self._read(received, key)

    def _read(self, received: Received, key: Key) -> None:
        if not key[1]:
            self._events.oddity(received.topic, "a command without an id can not be answered")
            return
        fields: dict[str, Any] = {}
        try:
            order = self._judge.read(received)
            fields = order.fields
            if order.status == "init":
                with suppress(ValueError):
                    self._cleared.remove(key)
                if not self._restate(key):
                    self._accept(key, order, is_live=not received.is_retained)
            elif key in self._cleared:  # it crossed the operator's message, and would stay
                self._answers.clear(received.topic)
            elif received.is_retained and order.status == "executing":
                self._orphan(key)
        except RefusedError as error:
            if not self._restate(key):
                self._refuse(received.topic, key, fields, error)

    def _restate(self, key: Key) -> bool:
        """Whether a command is known; what stands in its topic is then our answer again."""
        task, entry = self._tasks.get(key), self._journal.entries.get(key)
        if task is not None:
            task.is_watched = True
            if task.has_begun:
                self._answers.tell(self._topic(key), task.answer)
        elif entry is not None:
            self._answers.tell(self._topic(key), entry.answer)
        return task is not None or entry is not None

    def _accept(self, key: Key, order: Order, *, is_live: bool) -> None:
        verb, arguments = self._judge.allow(key, order, is_live=is_live)
        if self._lanes.is_full:
            raise RefusedError(
                f"{self._rights.queue} commands wait already",
                kind="unavailable",
                hint="send it again when they have ended",
            )
        self._add(Task(self, key, verb, arguments, order, is_live=is_live))

    def _add(self, task: Task) -> None:
        self._tasks[task.key] = task
        self._lanes.add(task)

    def _clear(self, key: Key) -> None:
        """The operator has cleared the topic: whatever comes is not told there."""
        self._answers.drop(self._topic(key))
        self._journal.told(key)
        if key not in self._cleared:
            self._cleared.append(key)
        task = self._tasks.get(key)
        if task is None:
            return
        task.is_watched = False
        task.withdrawn.set()
        if self._lanes.remove(task):
            del self._tasks[key]
            end = {"status": "failed", "reason": "withdrawn before it began", "kind": "withdrawn"}
            self._events.ended(key, task.fields, {**end, "ts_ms": clock.now_ms()})

    def _orphan(self, key: Key) -> None:
        """The broker says that we are at work on something."""
        if not self._restate(key):
            raise RefusedError(
                "interrupted by a restart, and the device remembers nothing of it",
                kind="interrupted",
                hint="send it again under another id",
            )

    def _refuse(self, topic: str, key: Key, fields: dict[str, Any], error: RefusedError) -> None:
        end = {**orders.failure(error), "ts_ms": clock.now_ms()}
        log.info("command %s/%s is refused: %s", *(orders.shown(part) for part in key), error)
        self._answers.tell(topic, {**fields, **end})
        self._events.refused(key, end)

    # What is run

    def begin(self, task: Task) -> None:
        """It is its turn."""
        if self._closing.is_set():
            return  # the broker has it still, for the next process
        try:
            if not task.is_resumed:
                self._judge.check_expiry(task.order, is_live=task.is_live)
                self._journal.begin(*task.key, task.fields, clock.now_ms())
        except (RefusedError, OSError) as error:
            self._post(partial(self._give_up, task, error))
            return
        log.info("command %s/%s begins: %s", *task.key, orders.shown(task.fields))
        self._answers.tell(self._topic(task.key), task.answer)
        task.run(self._around, self._journal, self._closing, partial(self._ended, task))

    def _give_up(self, task: Task, error: RefusedError | OSError) -> None:
        """A command that is not in the journal must not be run."""
        self._forget(task)
        if not isinstance(error, RefusedError):
            why = error.strerror or str(error)
            error = RefusedError(f"it can not be kept on the disk: {why}", kind="unavailable")
        self._refuse(self._topic(task.key), task.key, task.fields, error)

    def _ended(self, task: Task, outcome: Outcome) -> None:
        """Called on the task's thread."""
        if not isinstance(outcome, Interrupted):
            self._post(partial(self._end, task, outcome))

    def _end(self, task: Task, outcome: Outcome) -> None:
        self._finish(task.key, outcome, is_told=not task.is_watched)
        self._forget(task)
        self._rest()

    def _finish(self, key: Key, outcome: Outcome, *, is_told: bool) -> None:
        end = encoded(outcome, self._rights.max_payload_bytes)
        self._tell_end(self._journal.end(key, {**end, "ts_ms": clock.now_ms()}, is_told=is_told))

    def _forget(self, task: Task) -> None:
        del self._tasks[task.key]
        self._lanes.end(task)

    def _tell_end(self, entry: Entry) -> None:
        end = entry.end or {}
        said = orders.shown(end.get("reason") or end.get("result") or "done")
        came = "failed" if end["status"] == "failed" else "is done"
        log.info("command %s/%s %s: %s", *entry.key, came, said)
        self._events.ended(entry.key, entry.fields, end)
        if not entry.is_told:
            self._answers.tell(self._topic(entry.key), entry.answer)

    def _tell_progress(self) -> None:
        now_s = time.monotonic()
        for task in list(self._tasks.values()):
            if task.has_news(now_s) and task.is_watched:
                self._answers.tell(self._topic(task.key), task.answer)

    def _topic(self, key: Key) -> str:
        return f"{self._root}{'/'.join(key)}"

    # What a restart has cut

    def _recover(self) -> None:
        """Tell what was not told, and go on with what can; all else has failed."""
        self._journal.open()
        for entry in list(self._journal.entries.values()):
            if entry.end is None:
                self._recover_one(entry)
            elif not entry.is_told:
                self._tell_end(entry)

    def _recover_one(self, entry: Entry) -> None:
        outcome: Outcome
        try:
            verb, arguments = self._judge.resume(entry.verb, entry.fields)
            order = Order("init", entry.fields)
            task = Task(self, entry.key, verb, arguments, order, notes=entry.notes)
            if verb.is_resumed:
                self._add(task)
                return
            context = task.context(self._around, self._closing)
            outcome = verb.proof(context, arguments) or _INTERRUPTED
        except Exception as error:
            log.warning("command %s/%s can not be gone on with: %s", *entry.key, error)
            outcome = _INTERRUPTED
        self._finish(entry.key, outcome, is_told=False)

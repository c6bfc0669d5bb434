"""Orders, clearings, restarts and lost connections in any order: each command ends once."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as some
from patience import LONG_S

from edge.settings import Commands, Settings
from edge.telemetry.commands.dispatcher import Dispatcher
from edge.telemetry.commands.journal import Journal
from edge.telemetry.commands.verb import Context, Progress, Result, Surroundings, Verb
from edge.telemetry.link import Received
from edge.telemetry.topics import Topics

TOPICS = Topics("lab", "one")
RIGHTS = Settings(commands=Commands(load=True))
ROOT = TOPICS.of("cmd", "load")


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class World(Verb[Nothing]):
    """A broker, a device that is started again, and what its verb has done."""

    arguments = Nothing

    def __init__(self, folder: Path) -> None:
        self.effects: Counter[str] = Counter()
        self.ends: dict[str, list[bytes]] = {}
        self.kept: dict[str, bytes] = {}  # by the broker
        self.backlog = SimpleNamespace(commit=lambda: True)
        self._folder = folder
        self._is_connected = True
        self._waiting: dict[str, bytes] = {}  # at the device
        self._lock = threading.RLock()
        self._begin()

    def run(self, context: Context, arguments: Nothing, progress: Progress) -> Result:
        self.effects[context.id] += 1
        return {"count": self.effects[context.id]}

    def order(self, id_: str) -> None:
        self._publish(f"{ROOT}/{id_}", b'{"status":"init"}')

    def clear(self, id_: str) -> None:
        self._publish(f"{ROOT}/{id_}", b"")

    def restart(self, _: str) -> None:
        self.settle()
        self._end()
        self._waiting.clear()
        self._begin()

    def restart_at_once(self, _: str) -> None:
        self._end()
        self._waiting.clear()
        self._begin()

    def disconnect(self, _: str) -> None:
        with self._lock:
            self._is_connected = False

    def connect(self, _: str) -> None:
        with self._lock:
            self._is_connected = True
            for topic, payload in list(self._waiting.items()):
                self._publish(topic, payload)
            for topic, payload in list(self.kept.items()):
                self._dispatcher.hear(Received(topic, payload, True))

    def settle(self) -> None:
        """Until the device has nothing more to do."""
        while True:
            is_seen = threading.Event()
            self._dispatcher._post(is_seen.set)
            assert is_seen.wait(LONG_S)
            if not self._dispatcher._tasks and self._dispatcher._inbox.empty():
                return

    def close(self) -> None:
        self._end()

    # What the dispatcher takes for a sender

    def retain(self, topic: str, payload: bytes) -> None:
        with self._lock:
            self._waiting[topic] = payload
            if self._is_connected:
                self._publish(topic, payload)

    def release(self, topic: str) -> None:
        with self._lock:
            self._waiting.pop(topic, None)

    def send(self, *_: Any, **__: Any) -> None:
        pass

    def _publish(self, topic: str, payload: bytes) -> None:
        with self._lock:
            if payload:
                self.kept[topic] = payload
            else:
                self.kept.pop(topic, None)
            if b'"successful"' in payload or b'"failed"' in payload:
                self.ends.setdefault(topic, []).append(payload)
            if self._is_connected:
                self._dispatcher.hear(Received(topic, payload, False))

    def _begin(self) -> None:
        around = Surroundings(cast(Any, None), RIGHTS, TOPICS, cast(Any, self))
        self._dispatcher = Dispatcher(around, {"load": self}, Journal(self._folder, 100, 1.0))
        self._dispatcher.start()
        if self._is_connected:
            self.connect("")

    def _end(self) -> None:
        self._dispatcher.close(LONG_S)


Act = some.tuples(
    some.sampled_from(
        ["order", "order", "clear", "restart", "restart_at_once", "disconnect", "connect"]
    ),
    some.sampled_from("abc"),
)


@settings(max_examples=60)
@given(some.lists(Act, max_size=15))
def test_each_command_is_done_at_most_once_and_ends_in_one_way(acts: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "commands")
        wanted = set()
        for act, id_ in acts:
            getattr(world, act)(id_)
            if act == "order":
                wanted.add(id_)
            elif act == "clear":
                wanted.discard(id_)
        world.connect("")
        world.settle()
        world.close()
        assert max(world.effects.values(), default=0) <= 1
        for id_ in wanted:
            answer = msgspec.json.decode(world.kept[f"{ROOT}/{id_}"])
            assert answer["status"] in ("successful", "failed"), acts
            assert (answer["status"] == "successful") <= (world.effects[id_] == 1)
        for ends in world.ends.values():
            assert len(set(ends)) == 1

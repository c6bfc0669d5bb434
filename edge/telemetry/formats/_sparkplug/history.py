"""What is to be told until a broker has it: changes and events, also over outages and restarts."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from edge.core.errors import InputError
from edge.telemetry import clock
from edge.telemetry.backlog import Backlog
from edge.telemetry.envelope import Envelope, Sealer, decode
from edge.telemetry.figures import Figure
from edge.telemetry.formats._sparkplug.recorder import GAP, NODE, Change, Recorder, State, Told
from edge.telemetry.link import Link
from edge.telemetry.outbox import Bounds
from edge.telemetry.reports import Metrics

_MOST_UNPROVEN = 500


class History:
    """An outbox of its own; any thread may tell, one takes.

    At QoS 0 no broker says that it has a message. But brokers answer in order: one that has
    answered SUBSCRIBE has all that was sent before, so each batch is followed by one.

    Args:
        folder: Where it survives; None for memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.state = State()
        self._recorder = Recorder()
        self._sealer = Sealer()
        self._number = 0
        self._lock = threading.Lock()
        self._backlog = Backlog(self._seal_gap, folder, Bounds(fresh_s=0.0))
        self._unproven: list[int] = []
        self._asked: list[int] = []
        self._question: int | None = None

    def start(self) -> None:
        self._backlog.start()

    def close(self) -> None:
        self._backlog.close()

    def look(self, figures: Iterable[Figure]) -> None:
        """How all things are now."""
        with self._lock:
            for device, change in self._recorder.look(figures):
                self._put(device, change, is_event=False)
            self._note_state()

    def note(self, event: str, metrics: Metrics) -> None:
        """Something happened."""
        with self._lock:
            device, change = self._recorder.note(event, metrics, clock.now_ms())
            self._put(device, change, is_event=True)
            self._note_state()

    @property
    def has_more(self) -> bool:
        """Whether more may come by and by, though `take` gave None."""
        return self._backlog.has_history

    def begin(self) -> None:
        """A session is about to begin: what is known now is told by its birth."""
        self._backlog.begin()

    def take(self) -> Told | None:
        """The next to tell."""
        while len(self._unproven) + len(self._asked) < _MOST_UNPROVEN:
            message = self._backlog.take()
            if message is None:
                return None
            self._unproven.append(message.number)
            try:
                envelope = decode(message.payload)
                change: dict[str, Any] = envelope.metrics()
            except InputError:  # of another version of this program
                continue
            return Told(message.topic, change, envelope.seq, envelope.ts_ms, envelope.hist)
        return None

    def prove(self, link: Link, topic: str) -> None:
        """Let go of what the broker has, and ask whether it has the rest."""
        if self._question in link.acknowledged():
            for number in self._asked:
                self._backlog.acknowledge(number)
            self._asked, self._question = [], None
        if self._unproven and self._question is None and link.is_open:
            self._asked, self._unproven = self._unproven, []
            self._question = link.subscribe(topic)

    def end(self) -> None:
        """The session is over: what is not proven goes again."""
        self._unproven, self._asked, self._question = [], [], None
        self._backlog.end()
        self._backlog.find_disk()

    def _put(self, device: str, change: Change, *, is_event: bool) -> None:
        envelope = self._sealer.seal(change)
        self._backlog.put(device, envelope, is_event=is_event)
        self._number = envelope.seq

    def _note_state(self) -> None:
        self.state = State(self._recorder.values, self._number)

    def _seal_gap(self, metrics: Metrics) -> tuple[str, Envelope]:
        return NODE, self._sealer.seal({GAP: msgspec.json.encode(metrics["gap"]).decode()})

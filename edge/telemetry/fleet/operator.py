"""Sees a fleet and gives it commands, over one connection that comes back by itself."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edge.telemetry.board import Board
from edge.telemetry.topics import Topics, split

if TYPE_CHECKING:
    from edge.telemetry.link import Link, Received
    from edge.telemetry.watcher import Watcher

COMMANDS = "cmd/+/+"
"""What a `Watcher` has to subscribe to, beside all else, for an operator."""

SETTLE_S = 2.0
WINDOW = 16  # that wait for the broker's answer: with chunks of 64 KiB, 1 MiB
_MOST_COMMANDS = 256  # of a device: others may have given some


class _Outgoing(msgspec.Struct, frozen=True):
    topic: str
    payload: bytes
    is_retained: bool


class Operator:
    """One thread uses it. ``board`` is what is known of the devices of all fleets looked at.

    Whatever was handed over goes again after a lost connection until the broker has it.

    Args:
        settle_s: After a connection is made, how long what is retained may take to come.
    """

    def __init__(self, watcher: Watcher, settle_s: float = SETTLE_S) -> None:
        self.board = Board()
        self.watcher = watcher
        self._settle_s = settle_s
        self._answers: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self._waiting: deque[_Outgoing] = deque()
        self._in_flight: dict[int, _Outgoing] = {}
        self._link: Link | None = None
        self._settled_at_s = float("inf")

    @property
    def is_settled(self) -> bool:
        """Whether what the broker had retained has come: what is not seen now is not there."""
        return self._link is not None and time.monotonic() >= self._settled_at_s

    @property
    def room(self) -> int:
        """How many more messages may be handed over before some have to wait."""
        return WINDOW - len(self._in_flight) - len(self._waiting)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._in_flight

    def answers(self, fleet: str, device: str) -> Mapping[str, Mapping[str, Any]]:
        """By id: what stands in the topics of a device's commands."""
        return self._answers.get((fleet, device), {})

    def give(self, topics: Topics, verb: str, id_: str, arguments: Mapping[str, Any]) -> None:
        """Put a command into its topic; the device answers there."""
        command = {**arguments, "status": "init"}
        self._commands(topics)[id_] = command
        payload = msgspec.json.encode(command)
        self._waiting.append(_Outgoing(topics.of("cmd", verb, id_), payload, True))

    def clear(self, topics: Topics, verb: str, id_: str) -> None:
        """Make the broker forget a command; one that has not begun is withdrawn."""
        self._commands(topics).pop(id_, None)
        self._waiting.append(_Outgoing(topics.of("cmd", verb, id_), b"", True))

    def desire(self, topics: Topics, desired: Mapping[str, Any] | None) -> None:
        """Say what a device is to be, also when it is back; None asks nothing of it any more."""
        payload = b"" if desired is None else msgspec.json.encode(desired)
        self._waiting.append(_Outgoing(topics.of("desired"), payload, True))

    def send_chunk(self, topics: Topics, id_: str, index: int, chunk: bytes) -> None:
        topic = topics.of("cmd", "update", id_, "chunk", str(index))
        self._waiting.append(_Outgoing(topic, chunk, False))

    def poll(self, timeout_s: float) -> list[tuple[Topics, str, Mapping[str, Any]]]:
        """See what came and send what waits, up to ``timeout_s``.

        Returns:
            Answers of devices to commands: whose, the id, and what it says.
        """
        self._hand_over()
        for arrival in self.watcher.poll(timeout_s):
            self.board.add(arrival)
        self._follow(self.watcher.link)
        answers = [answer for one in self._received() if (answer := self._take(one)) is not None]
        self._hand_over()
        return answers

    def watch(self, seconds: float) -> None:
        """See what comes for so long."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.poll(left_s)

    def flush(self, timeout_s: float) -> bool:
        """Whether the broker has all within ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        while not self.is_idle and time.monotonic() < deadline_s:
            self.poll(0.1)
        return self.is_idle

    def _commands(self, topics: Topics) -> dict[str, dict[str, Any]]:
        return self._answers.setdefault((topics.fleet, topics.device), {})

    def _follow(self, link: Link | None) -> None:
        """Notice a new connection, on which all that had no acknowledgement goes once more."""
        if link is self._link:
            return
        self._link = link
        self._settled_at_s = time.monotonic() + self._settle_s
        self._waiting.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()
        # What no device has taken up may be lost with the broker's memory: see whether it is there.
        for commands in self._answers.values():
            for id_ in [id_ for id_, one in commands.items() if one.get("status") == "init"]:
                del commands[id_]

    def _hand_over(self) -> None:
        link = self.watcher.link
        if link is None or link is not self._link:
            return
        for number in link.acknowledged():
            self._in_flight.pop(number, None)
        while self._waiting and len(self._in_flight) < WINDOW and link.is_open:
            one = self._waiting.popleft()
            number = link.send(one.topic, one.payload, is_retained=one.is_retained)
            self._in_flight[number] = one

    def _received(self) -> list[Received]:
        received = list(self.watcher.others)
        self.watcher.others.clear()
        return received

    def _take(self, received: Received) -> tuple[Topics, str, Mapping[str, Any]] | None:
        fleet, device, path = split(received.topic)
        said = _read(received.payload)
        if path == "reported":
            self.board.device(fleet, device).reported = said or {}
            return None
        id_ = path.rpartition("/")[2]
        if path.count("/") != 2 or (said is None and received.payload):
            return None
        topics = Topics(fleet, device)
        commands = self._commands(topics)
        if said is None:
            commands.pop(id_, None)
            return None
        if id_ in commands or len(commands) < _MOST_COMMANDS:
            commands[id_] = said
        return topics, id_, said


def _read(payload: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None

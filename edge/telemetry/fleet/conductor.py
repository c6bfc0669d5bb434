"""Carries a roll-out through: looks, decides, keeps the decision on the disk, and acts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge.telemetry.fleet import decisions
from edge.telemetry.fleet.decisions import Action, Sight
from edge.telemetry.fleet.journal import Journal
from edge.telemetry.fleet.operator import Operator
from edge.telemetry.fleet.rollout import Rollout, Rules, Step
from edge.telemetry.fleet.sights import AILMENTS, sight_of
from edge.telemetry.fleet.transfer import ChunkSource, Pace
from edge.telemetry.topics import Topics

_LOOK_S = 0.2
_LONGEST_LOOK_S = 5.0  # more at once is a machine that slept: it has watched nothing meanwhile
_KEEP_S = 10.0  # how much of a soak may be watched once more after a crash
_GOODBYE_S = 5.0


class Change(msgspec.Struct, frozen=True):
    """A device that went on; ``device`` is empty for the roll-out as a whole."""

    device: str
    progress: str
    reason: str = ""


Tell = Callable[[Change], None]


class Supply:
    """How devices come by the bundle: from a URL, or in chunks that we send."""

    def __init__(self, path: Path, url: str = "") -> None:
        self.source = None if url else ChunkSource(path)
        self._url = url
        self._paces: dict[str, Pace] = {}

    def fields(self, rollout: Rollout) -> dict[str, Any]:
        target = rollout.target
        how = self.source.fields() if self.source else {"url": self._url, "sha256": target.sha256}
        return {**how, "model": target.name, "version": target.version, "activate": True}

    def heard(self, device: str, answer: Mapping[str, Any]) -> None:
        if self.source is None:
            return
        if answer.get("status") == "executing":
            self._paces.setdefault(device, Pace()).heard(answer)
        else:
            self._paces.pop(device, None)

    def due(self, most: int) -> Iterator[tuple[str, int, bytes]]:
        """Up to ``most`` chunks, of each device in turn: whose, its number, and its bytes."""
        if self.source is None:
            return
        hungry = dict(self._paces)
        while hungry and most > 0:
            for device, pace in list(hungry.items()):
                index = pace.next()
                if index is None or most <= 0:
                    del hungry[device]
                else:
                    most -= 1
                    yield device, index, self.source.chunk(index)

    def close(self) -> None:
        if self.source is not None:
            self.source.close()


class Conductor:
    """Runs one roll-out until nothing is left to do; one that is interrupted goes on later."""

    def __init__(
        self, operator: Operator, journal: Journal, rollout: Rollout, rules: Rules, supply: Supply
    ) -> None:
        self.rollout = rollout
        self.sights: dict[str, Sight] = {}
        self._operator = operator
        self._journal = journal
        self._rules = rules
        self._supply = supply
        self._kept: Rollout | None = None
        self._kept_s = 0.0
        self._looked_s = time.monotonic()

    def run(self, tell: Tell, tick: Callable[[], None] = lambda: None) -> Rollout:
        """Until it is over. ``tick`` is called at each look, several times a second."""
        self._keep()
        for device in self.rollout.devices_in("updating"):  # by whoever went before us
            for id_, answer in self._operator.answers(self.rollout.fleet, device).items():
                self._hear(device, id_, answer)
        while True:
            for topics, id_, answer in self._operator.poll(_LOOK_S):
                self._hear(topics.device, id_, answer)
            is_over = self._look(tell)
            self._send_chunks()
            tick()
            if is_over:
                self._operator.flush(_GOODBYE_S)
                return self.rollout

    def _hear(self, device: str, id_: str, answer: Mapping[str, Any]) -> None:
        if device in self.rollout.steps and id_ == self.rollout.update_id(device):
            self._supply.heard(device, answer)

    def _look(self, tell: Tell) -> bool:
        now_s = time.monotonic()
        elapsed_s = min(_LONGEST_LOOK_S, now_s - self._looked_s)
        self._looked_s = now_s
        if not self._operator.is_settled:
            return False
        self.sights = self._see(now_s)
        before = self.rollout
        self.rollout, actions = decisions.advance(before, self.sights, self._rules, elapsed_s)
        changes = list(_changes(before, self.rollout))
        if changes or now_s - self._kept_s > _KEEP_S:
            self._keep()
        for action in actions:
            self._act(action)
        for change in changes:
            tell(change)
        return not actions and decisions.is_over(self.rollout, self.sights)

    def _see(self, now_s: float) -> dict[str, Sight]:
        rollout, operator = self.rollout, self._operator
        kinds = {*AILMENTS} - self._rules.tolerated
        return {
            device: sight_of(
                board, rollout.target, operator.answers(rollout.fleet, device), now_s, kinds
            )
            for device in rollout.steps
            if (board := operator.board.devices.get((rollout.fleet, device))) is not None
        }

    def _keep(self) -> None:
        if self.rollout is not self._kept:
            self._journal.write(self.rollout)
        self._kept, self._kept_s = self.rollout, time.monotonic()

    def _act(self, action: Action) -> None:
        topics = Topics(self.rollout.fleet, action.device)
        if action.kind == "clear":
            self._operator.clear(topics, action.verb, action.id)
        elif action.verb == "update":
            fields = self._supply.fields(self.rollout)
            self._operator.give(topics, action.verb, action.id, fields)
        else:
            fields = {"model": self.rollout.target.name}
            self._operator.give(topics, action.verb, action.id, fields)

    def _send_chunks(self) -> None:
        for device, index, chunk in self._supply.due(self._operator.room):
            topics = Topics(self.rollout.fleet, device)
            self._operator.send_chunk(topics, self.rollout.update_id(device), index, chunk)


def _changes(before: Rollout, after: Rollout) -> Iterator[Change]:
    for device, step in after.steps.items():
        earlier = before.steps.get(device, Step())
        if (step.progress, step.attempt) != (earlier.progress, earlier.attempt):
            yield Change(device, step.progress, step.reason)
    if after.phase != before.phase:
        yield Change("", after.phase, after.reason)

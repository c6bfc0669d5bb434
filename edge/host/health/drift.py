"""Decides when what a model sees and says has left its reference, and when it is back."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from edge.host.health.distribution import (
    MAJOR,
    expected_index,
    index_by_chance,
    stability_index,
)
from edge.host.health.status import Drift, DriftState, Moved

if TYPE_CHECKING:
    from edge.host.health.looks import Look
    from edge.host.health.reference import Reference

log = logging.getLogger(__name__)

EVALUATIONS = 10
"""Per window: how often it is looked whether the reference was left."""
CONFIRMATIONS = 2
"""Evaluations in a row that must say the same."""
FALSE_ALARMS = 1e-5
"""Chance that a stable stream exceeds a limit at one evaluation, whatever the number of
statistics: at one look a second there are 4,300 evaluations a day, each much like the last."""
BACK = 0.4
"""Share of the limit below which all must be again: 0.1 of 0.25, as the convention has it."""


class DriftWatch:
    """The last ``window`` looks at one model, against the reference of the variant that runs.

    One thread adds, any may ask for ``status``.
    """

    def __init__(self, name: str, reference: Reference, window: int) -> None:
        self._name = name
        self._reference = reference
        self._window = window
        self._variant = ""
        self._looks: deque[Look] = deque(maxlen=window)
        self._new = self._confirmed = 0
        self._known = reference.of("")
        self._state: DriftState = "gathering"
        self._moved: tuple[Moved, ...] = ()
        self.status = self._status({}, int(time.time() * 1000))

    def add(self, variant_id: str, look: Look) -> None:
        if variant_id != self._variant:  # which answers in another way
            self._variant, self._known = variant_id, self._reference.of(variant_id)
            self._looks.clear()
            self._new = self._confirmed = 0
            self._state, self._moved = "gathering", ()
            self.status = self._status({}, int(time.time() * 1000))
        self._looks.append(look)
        self._new += 1
        if len(self._looks) < self._window:
            self.status = self._status({}, self.status.since_ms)
        elif self._new >= self._window // EVALUATIONS:
            self._new = 0
            self._evaluate()

    def _evaluate(self) -> None:
        indices, moved, is_back = {}, [], True
        alpha = FALSE_ALARMS / max(1, len(self._known))
        for name, known in self._known.items():
            values = [look[name] for look in self._looks if name in look]
            # What can't be had of some is as far off as can be.
            counts = known.binned(values)
            counts[-1] += len(self._looks) - len(values)
            shape = (len(counts), len(self._looks), known.total)
            chance = expected_index(*shape)
            index = stability_index(known.counts, counts) - chance
            limit = max(MAJOR, index_by_chance(*shape, alpha) - chance)
            indices[name] = round(index, 3)
            is_back = is_back and index < BACK * limit
            if index > limit:
                middle = sorted(values)[len(values) // 2] if values else None
                moved.append(Moved(name, round(index, 3), round(limit, 3), middle, known.median))
        moved.sort(key=lambda each: -each.index)
        self._decide(indices, tuple(moved), is_back=is_back)

    def _decide(
        self, indices: dict[str, float], moved: tuple[Moved, ...], *, is_back: bool
    ) -> None:
        was = self._state
        has_left = bool(moved)
        leaves = was != "drifted" and has_left
        returns = was == "drifted" and is_back
        self._confirmed = self._confirmed + 1 if leaves or returns else 0
        since_ms = self.status.since_ms
        if self._confirmed >= CONFIRMATIONS:
            self._confirmed = 0
            self._state = "drifted" if leaves else "stable"
        elif was == "gathering" and not has_left:
            self._state = "stable"
        if self._state != was:
            since_ms = int(time.time() * 1000)
        # On the way back, what has left is still the reason.
        self._moved = (moved or self._moved) if self._state == "drifted" else ()
        self.status = self._status(indices, since_ms)
        if self._state == "drifted" != was:
            log.warning(
                "%s sees or says other than it was made for: %s", self._name, self.status.why
            )
        elif was == "drifted" and self._state == "stable":
            log.info("%s sees and says again what it was made for", self._name)

    def _status(self, indices: dict[str, float], since_ms: int) -> Drift:
        return Drift(
            self._state,
            reference=f"{self._reference.samples} samples, {self._reference.data}",
            samples=len(self._looks),
            window=self._window,
            indices=indices,
            moved=self._moved,
            since_ms=since_ms,
        )

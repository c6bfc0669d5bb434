"""How much longer inferences take beside telemetry, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

OFF, AGAIN, DEAD = NAMES = ("without telemetry", "without, again", "broker dead")
RESAMPLES = 1000
AFTER = 2
"""Inferences after one beside which telemetry ran, which may find caches as that has left them."""
ELSEWHEN_S, OTHERWHEN_S = 1 / 3, 2 / 3
"""After telemetry ran: moments at which it sleeps, as it looks once a second."""

Array = NDArray[np.float64]


class Turn(msgspec.Struct, frozen=True):
    """Of each inference: when it began, how long it took, and what telemetry's threads ran."""

    begun_s: Array
    spent_ms: Array
    busy_ms: Array


class Round(msgspec.Struct, frozen=True):
    """Turns one right after the other, by name."""

    turns: dict[str, Turn]

    def times(self, *names: str) -> Array:
        """As multiples of the round's median, which takes slow changes of the machine out."""
        middle = np.median(np.concatenate([turn.spent_ms for turn in self.turns.values()]))
        return np.concatenate([self.turns[name].spent_ms for name in names]) / middle


class Ratio(msgspec.Struct, frozen=True):
    """Between ``low`` and ``high`` with 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} … {self.high:.3f})"


class Comparison(msgspec.Struct, frozen=True):
    """Of one percentile.

    Attributes:
        control: Turns without telemetry over the others without it: the noise of ``dead``.
        dead: Turns with a dead broker over all those without telemetry.
        beside: Of the turns with a dead broker, all inferences but some at other moments, over all
            but those during which, or shortly before which, a thread of telemetry ran: these are
            as they would be without it. As many are left out above, as a long inference is more
            likely to have anything beside it.
        beside_control: The same with yet other moments below: the noise of ``beside``.
        share_beside: Of the inferences that ``beside`` leaves out.
    """

    control: Ratio
    dead: Ratio
    beside: Ratio
    beside_control: Ratio
    share_beside: float


def compared(rounds: Sequence[Round], percent: int) -> Comparison:
    dead = [one.times(DEAD) for one in rounds]
    off = [one.times(OFF) for one in rounds]
    again = [one.times(AGAIN) for one in rounds]
    beside = [_at_work(one.turns[DEAD], 0.0) for one in rounds]
    elsewhen = _without(dead, [_at_work(one.turns[DEAD], ELSEWHEN_S) for one in rounds])
    otherwhen = _without(dead, [_at_work(one.turns[DEAD], OTHERWHEN_S) for one in rounds])
    return Comparison(
        control=_ratio(again, off, percent),
        dead=_ratio(dead, [one.times(OFF, AGAIN) for one in rounds], percent),
        beside=_ratio(elsewhen, _without(dead, beside), percent),
        beside_control=_ratio(elsewhen, otherwhen, percent),
        share_beside=round(float(np.concatenate(beside).mean()), 4),
    )


def milliseconds(rounds: Sequence[Round], name: str) -> tuple[float, float]:
    """Median and 99th percentile of all turns of a name together."""
    spent_ms = np.concatenate([one.turns[name].spent_ms for one in rounds])
    median, p99 = np.percentile(spent_ms, (50, 99))
    return round(float(median), 3), round(float(p99), 3)


def _at_work(turn: Turn, later_s: float) -> NDArray[np.bool_]:
    """Inferences at work ``later_s`` after telemetry ran, and the next few; a turn is a circle."""
    elapsed_s = turn.begun_s - turn.begun_s[0]
    moments_s = (elapsed_s[turn.busy_ms > 0] + later_s) % (elapsed_s[-1] + turn.spent_ms[-1] / 1e3)
    places = np.searchsorted(elapsed_s, moments_s, side="right") - 1
    chosen = np.zeros(len(elapsed_s), bool)
    for distance in range(AFTER + 1):
        chosen[np.minimum(places + distance, len(chosen) - 1)] = True
    return chosen


def _without(times: list[Array], left_out: list[NDArray[np.bool_]]) -> list[Array]:
    return [all_of[~out] for all_of, out in zip(times, left_out, strict=True)]


def _ratio(above: list[Array], below: list[Array], percent: int) -> Ratio:
    """Of percentiles; rounds are drawn anew as wholes, as times in one are alike."""

    def of(places: Sequence[int]) -> float:
        top, bottom = (
            np.percentile(np.concatenate([side[place] for place in places]), percent)
            for side in (above, below)
        )
        return float(top / bottom)

    chance = np.random.default_rng(0)
    drawn = [of(chance.integers(len(above), size=len(above))) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    value = of(range(len(above)))
    return Ratio(round(value, 4), round(float(low), 4), round(float(high), 4))

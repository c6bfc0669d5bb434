"""Joules from what sensors say, reading by reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from edge.sensors import Reading

EnergySource = Literal["counter", "integrated", "estimated", "none"]
"""A counter of energy, power summed up over time, or what the settings say; how sure it is falls
in that order."""


class _Point(NamedTuple):
    now_s: float
    source: EnergySource
    rail: str
    figure: float


class EnergyMeter:
    """What was drawn between two readings; by a counter if there is one, else by the trapezoid.

    A time at whose begin or end no sensor told is not guessed at, nor is one between readings of
    different rails, or of power that lie further apart than ``longest_s``.

    Attributes:
        source: Of the newest reading that told; ``rail`` is what it was of.
        variance: Of the joules told so far, by how much power differs from reading to reading.
    """

    def __init__(self, longest_s: float) -> None:
        self.source: EnergySource = "none"
        self.rail = ""
        self.variance = 0.0
        self._longest_s = longest_s
        self._last: _Point | None = None

    def advance(self, now_s: float, reading: Reading) -> float | None:
        """Joules since the last call; None if they can't be told."""
        last, self._last = self._last, _point(now_s, reading)
        now = self._last
        if now is None:
            return None
        self.source, self.rail = now.source, now.rail
        if last is None or (last.source, last.rail) != (now.source, now.rail):
            return None
        if now.source == "counter":
            return now.figure - last.figure if now.figure >= last.figure else None
        elapsed_s = now_s - last.now_s
        if not 0.0 <= elapsed_s <= self._longest_s:
            return None
        # After von Neumann 1941: half of it where readings have nothing to do with each other, and
        # little where power changes slowly, which the trapezoid follows.
        self.variance += ((now.figure - last.figure) * elapsed_s) ** 2 / 2
        return (last.figure + now.figure) / 2 * elapsed_s


def _point(now_s: float, reading: Reading) -> _Point | None:
    if reading.total_joules is not None:
        return _Point(now_s, "counter", reading.total_rail, reading.total_joules)
    if reading.total_watts is not None and reading.total_watts >= 0.0:
        return _Point(now_s, "integrated", reading.total_rail, reading.total_watts)
    return None

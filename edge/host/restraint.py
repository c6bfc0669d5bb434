"""How far to hold back: what the device says and may take, against what was let run so far.

Pure: no clock, no file, no thread. More is cut by a factor and less is given back by a step, so
that limits end up near what the device can bear for long, and stay there.
"""

from __future__ import annotations

from math import ceil, exp
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from edge.sensors import Cause, Reading
    from edge.settings import Power

Level = Literal["free", "concurrency", "rate"]
LEVELS: tuple[Level, ...] = ("free", "concurrency", "rate")

_ACTED_ON = ("power", "thermal", "over-current")
"""Not on a clock's limit that fell for no known cause: an operator may have set a power mode."""

_CUT = 0.8
_CUT_MILD = 0.9
_MILD_CELSIUS = 2.0
_CUT_MOST, _CUT_LEAST = 0.5, 0.95
_HYSTERESIS_CELSIUS = 3.0
_HYSTERESIS_SHARE = 0.05
_FALLING_CELSIUS_PER_S = -0.05
_FORGET_CELSIUS_PER_S = 0.005
"""By and by it is tried whether the device still throttles where it did: another part of it may
have been the hot one."""

_LOOKAHEAD_S = 30.0
"""A heat sink answers late: what counts is where the temperature will be."""

_SLOPE_S, _POWER_S = 10.0, 2.0  # smoothing
_SETTLE_S = 5.0
"""Between one cut and the next, or a step back."""

_STEP_PER_S = 0.02
_STEP_NEAR_PER_S = 0.004
_NEAR = (0.9, 1.1)
"""Steps are small around the rate that was too much the last time."""

_STEP_OF_FREE_PER_S = 0.002
_USED = 0.7
"""Who runs less than that of what may run at once is not held by it."""


class Limits(msgspec.Struct, frozen=True):
    """How many batches may run at once, and start per second, over all models; 0 for any number."""

    concurrency: int = 0
    batches_per_s: float = 0.0

    @property
    def level(self) -> Level:
        if self.batches_per_s:
            return "rate"
        return "concurrency" if self.concurrency else "free"


class Load(NamedTuple):
    """What ran since the last look: how many batches at once on average, and how many a second."""

    concurrency: float
    batches_per_s: float


class Pressure(NamedTuple):
    """What one thing asks for: a cut to ``factor`` of what ran, nothing (1), or no more limits."""

    cause: Cause = "none"
    why: str = ""
    factor: float = 1.0
    is_relaxed: bool = True


class Restraint:
    """Limits over time, by a policy. ``cause`` and ``why`` are of what presses, or pressed last."""

    def __init__(self, settings: Power) -> None:
        self.cause: Cause = "none"
        self.why = ""
        self._settings = settings
        self._concurrency = 0
        self._rate = 0.0
        self._cut_at = 0.0  # the rate that was too much
        self._free_concurrency = 0
        self._free_rate = 0.0
        self._fewer_rate = 0.0  # what one fewer at once did
        self._celsius: float | None = None
        self._slope = 0.0
        self._is_throttled = False
        self._onset: float | None = None  # where it was when it began to throttle
        self._watts: float | None = None
        self._decided_s: float | None = None
        self._changed_s = float("-inf")

    @property
    def limits(self) -> Limits:
        return Limits(self._concurrency, round(self._rate, 3))

    def configure(self, settings: Power) -> None:
        """Another budget or temperature, from what is held back already."""
        self._settings = settings

    def decide(self, now_s: float, reading: Reading, load: Load) -> Limits:
        """Look once more, at any pace.

        Args:
            now_s: A clock that only goes forward.
            load: Since the last call.
        """
        elapsed_s = 0.0 if self._decided_s is None else max(0.0, now_s - self._decided_s)
        self._decided_s = now_s
        self._follow(reading, elapsed_s)
        pressures = self._pressures(reading, elapsed_s)
        worst = min(pressures, key=lambda one: (one.factor, one.cause == "none"))
        if worst.cause != "none":
            self.cause, self.why = worst.cause, worst.why
        is_settled = elapsed_s > 0.0 and now_s - self._changed_s >= _SETTLE_S
        if worst.factor < 1.0 and is_settled and self._settings.policy != "watch":
            self._tighten(worst.factor, load)
            self._changed_s, self._watts = now_s, None
        elif all(one.is_relaxed for one in pressures) and is_settled:
            if self._loosen(load, elapsed_s):
                self._changed_s = now_s
            if self.limits == Limits():
                self.cause, self.why, self._onset = "none", "", None
        return self.limits

    def _pressures(self, reading: Reading, elapsed_s: float) -> list[Pressure]:
        set_by_us = (self._of_temperature(reading), self._of_budget())
        return [self._of_device(reading, elapsed_s), *(one for one in set_by_us if one is not None)]

    def _follow(self, reading: Reading, elapsed_s: float) -> None:
        """Smooth what jumps: sensors of whole degrees, and power from batch to batch."""
        celsius = reading.hottest[1] if reading.hottest else None
        if celsius is None or self._celsius is None or not elapsed_s:
            self._slope = 0.0
        else:
            weight = 1.0 - exp(-elapsed_s / _SLOPE_S)
            self._slope += weight * ((celsius - self._celsius) / elapsed_s - self._slope)
        self._celsius = celsius
        watts = reading.total_watts
        if watts is None or self._watts is None:
            self._watts = watts
        else:
            self._watts += (1.0 - exp(-elapsed_s / _POWER_S)) * (watts - self._watts)

    def _of_device(self, reading: Reading, elapsed_s: float) -> Pressure:
        """It holds itself back already, and says why."""
        throttle = reading.throttle
        was_throttled, self._is_throttled = self._is_throttled, throttle.cause == "thermal"
        if self._is_throttled:
            self._onset = self._onset if was_throttled else self._celsius
        elif self._onset is not None:
            self._onset += _FORGET_CELSIUS_PER_S * elapsed_s
        if throttle.cause not in _ACTED_ON:
            return Pressure(is_relaxed=self._is_below(self._onset))
        is_cooling = throttle.cause == "thermal" and self._slope < _FALLING_CELSIUS_PER_S
        return Pressure(throttle.cause, throttle.why, 1.0 if is_cooling else _CUT, False)

    def _is_below(self, limit: float | None) -> bool:
        """Whether it is well below that temperature, and will be."""
        if limit is None or self._celsius is None:
            return True
        rise = max(0.0, _LOOKAHEAD_S * self._slope)
        return self._celsius + rise <= limit - _HYSTERESIS_CELSIUS

    def _of_temperature(self, reading: Reading) -> Pressure | None:
        limit, hottest = self._settings.max_celsius, reading.hottest
        if not limit or hottest is None:
            return None
        name, celsius = hottest
        if celsius <= limit:
            return Pressure(is_relaxed=self._is_below(limit))
        is_cooling = celsius + _LOOKAHEAD_S * self._slope < limit
        factor = _CUT_MILD if celsius <= limit + _MILD_CELSIUS else _CUT
        why = f"{name} is at {celsius:.1f} °C, more than the {limit:g} of max_celsius"
        return Pressure("thermal", why, 1.0 if is_cooling else factor, False)

    def _of_budget(self) -> Pressure | None:
        budget, watts = self._settings.budget_watts, self._watts
        if not budget or watts is None:
            return None
        if watts <= budget:
            return Pressure(is_relaxed=watts <= budget * (1.0 - _HYSTERESIS_SHARE))
        why = f"{watts:.1f} W are drawn, more than the {budget:g} of budget_watts"
        return Pressure("power", why, min(_CUT_LEAST, max(_CUT_MOST, budget / watts)), False)

    def _tighten(self, factor: float, load: Load) -> None:
        """From what ran, not from what was allowed: a limit that nobody meets changes nothing."""
        if self._settings.policy == "throughput" and self._concurrency != 1:
            self._tighten_concurrency(factor, load)
            if self._concurrency != 1 or load.concurrency > 1.0:
                return
        rate = load.batches_per_s
        if self._rate:
            rate = min(self._rate, max(rate, self._rate / 2))  # few batches tell little of a rate
        else:
            self._free_rate = rate
        if rate > 0.0:
            self._cut_at = rate
            self._rate = max(self._settings.min_batches_per_s, rate * factor)

    def _tighten_concurrency(self, factor: float, load: Load) -> None:
        if self._rate * factor > self._fewer_rate:  # still more than one fewer would do
            least = self._settings.min_batches_per_s
            self._cut_at, self._rate = self._rate, max(least, self._rate * factor)
        elif self._rate:
            self._concurrency -= 1
            self._rate = 0.0
        else:
            running = max(1, ceil(load.concurrency))
            if not self._concurrency:
                self._free_concurrency = running
            self._concurrency = max(1, min(self._concurrency or running, running) // 2)
            self._cut_at = load.batches_per_s

    def _loosen(self, load: Load, elapsed_s: float) -> bool:
        """The last limit that came goes first; says whether that was more than a small step."""
        if not self._concurrency and not self._rate:
            return False
        if self._rate:
            low, high = (self._cut_at * share for share in _NEAR)
            share = _STEP_NEAR_PER_S if low <= self._rate <= high else _STEP_PER_S
            step = max(share * self._rate, _STEP_OF_FREE_PER_S * self._free_rate)
            self._rate += step * elapsed_s
            if self._rate < max(self._free_rate, self._settings.min_batches_per_s):
                return False
        if 0 < self._concurrency < self._free_concurrency:
            self._allow_one_more(load)
        else:
            self._rate, self._concurrency = 0.0, 0
        return True

    def _allow_one_more(self, load: Load) -> None:
        """At the rate of before, which then rises: one of few is a large step in power."""
        self._rate = 0.0
        if load.concurrency > _USED * self._concurrency and load.batches_per_s:
            least = self._settings.min_batches_per_s
            self._rate = self._fewer_rate = max(least, load.batches_per_s)
            self._free_rate = self._rate * (self._concurrency + 1) / self._concurrency
        self._concurrency += 1

"""What is known of a model's health."""

from __future__ import annotations

from typing import Literal

import msgspec

DriftState = Literal["off", "no-reference", "gathering", "stable", "drifted"]
LatencyState = Literal["off", "gathering", "normal", "slow"]
AccuracyState = Literal["off", "no-reference", "gathering", "normal", "low"]


class Moved(msgspec.Struct, frozen=True):
    """A statistic that left its reference: ``index`` is above ``limit``, medians say whereto.

    ``median`` is None where it can not be had any more.
    """

    name: str
    index: float
    limit: float
    median: float | None
    reference_median: float

    def __str__(self) -> str:
        now = "not there" if self.median is None else f"about {self.median:.3g}"
        return (
            f"{self.name} is {now}, was {self.reference_median:.3g} "
            f"(index {self.index:.2f}, limit {self.limit:.2f})"
        )


class Drift(msgspec.Struct, frozen=True):
    """Whether what the model sees and says is distributed as when it was converted.

    ``indices`` are population stability indices by statistic, of the last ``samples`` looks, less
    what equal distributions have by chance on average. ``reference`` says what they are held
    against, ``reason`` why there is none.
    """

    state: DriftState
    reason: str = ""
    reference: str = ""
    samples: int = 0
    window: int = 0
    indices: dict[str, float] = {}
    moved: tuple[Moved, ...] = ()
    since_ms: int = 0

    @property
    def why(self) -> str:
        if self.state == "stable":
            return f"the last {self.samples} looks are distributed like {self.reference}"
        return "; ".join(map(str, self.moved)) or self.reason


class Latency(msgspec.Struct, frozen=True):
    """Whether the model is as fast as it was.

    ``reference`` is ``bundle`` where the bundle was measured on a machine of this kind, ``here``
    for what it took here at first; ``reason`` says why. ``hints`` are what may slow it down.
    """

    state: LatencyState
    reference: Literal["", "bundle", "here"] = ""
    reason: str = ""
    count: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    reference_p50_ms: float = 0.0
    reference_p99_ms: float = 0.0
    hints: tuple[str, ...] = ()
    since_ms: int = 0

    @property
    def why(self) -> str:
        figures = (
            f"p50 {self.p50_ms:.3g} ms, was {self.reference_p50_ms:.3g}; "
            f"p99 {self.p99_ms:.3g} ms, was {self.reference_p99_ms:.3g}"
        )
        return "; ".join((figures, *self.hints)) if self.reference else self.reason


class Accuracy(msgspec.Struct, frozen=True):
    """How often the model was right about the last ``count`` predictions that labels came for.

    In percent, as is what it was ``expected``, by the bundle; it lies within ``low`` and ``high``
    with 99.9 %, where that can be said.
    """

    state: AccuracyState
    reason: str = ""
    metric: str = ""
    count: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    expected: float | None = None
    remembered: int = 0
    since_ms: int = 0

    @property
    def why(self) -> str:
        if self.value is None:
            return self.reason
        span = f" ({self.low:.1f} to {self.high:.1f})" if self.high is not None else ""
        was = f", was {self.expected:.1f}" if self.expected is not None else ""
        return f"{self.metric} of {self.count} labels is {self.value:.1f} %{span}{was}"


class ModelHealth(msgspec.Struct, frozen=True):
    """Health of one version of a model that was loaded."""

    name: str
    version: str
    drift: Drift
    latency: Latency
    accuracy: Accuracy

    @property
    def states(self) -> dict[str, str]:
        """State by aspect."""
        return {
            "drift": self.drift.state,
            "latency": self.latency.state,
            "accuracy": self.accuracy.state,
        }

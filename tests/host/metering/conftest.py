"""A device whose true power and work a test knows, second by second."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edge.host import Histogram, Snapshot
from edge.host.metering import CostMeter, CostReport
from edge.host.response_cache import CacheCounts
from edge.host.statistics import Executions
from edge.host.status import ModelStatus
from edge.sensors import Reading
from edge.settings import Cost

NO_WORK = Snapshot(0, 0, 0, 0, 0, 0, {})


class Device:
    """Draws, computes, and is looked at; ``true_joules`` is what no sensor rounds.

    Attributes:
        sensor: ``counter``, ``power`` or none.
    """

    def __init__(self, settings: Cost, sensor: str) -> None:
        self.meter = CostMeter(settings, interval_s=1.0)
        self.sensor = sensor
        self.rail = "VDD_IN"
        self.now_s = 100.0
        self.true_joules = 0.0
        self.watts = 5.0
        self.statuses: dict[tuple[str, str], ModelStatus] = {}
        self._batches: dict[tuple[str, str], dict[int, Executions]] = defaultdict(dict)
        self._recalled: Counter[tuple[str, str]] = Counter()
        self._transfer_ns: Counter[tuple[str, str]] = Counter()

    def passes(self, seconds: float, watts: float) -> None:
        """Let time pass without looking."""
        self.now_s += seconds
        self.true_joules += seconds * watts
        self.watts = watts

    def look(self, seconds: float = 1.0, watts: float | None = None) -> CostReport:
        """Let time pass, then read the sensors."""
        if watts is not None:
            self.passes(seconds, watts)
        self.meter.look(self.now_s, self._reading(), list(self.statuses.values()))
        return self.meter.report

    def quiet(self, watts: float, seconds: int = 10) -> None:
        for _ in range(seconds):
            self.look(1.0, watts)

    def ran(self, name: str, seconds: float, count: int = 1, size: int = 1) -> None:
        """``count`` batches of ``size`` requests ended, in ``seconds`` all together."""
        key = (name, "1")
        before = self._batches[key].get(size, Executions())
        total_ns = before.total_ns + round(seconds * 1e9)
        self._batches[key][size] = Executions(before.count + count, total_ns)
        self._state(key)

    def transferred(self, name: str, seconds: float) -> None:
        self._transfer_ns[(name, "1")] += round(seconds * 1e9)
        self._state((name, "1"))

    def recalled(self, name: str, count: int) -> None:
        self._recalled[(name, "1")] += count
        self._state((name, "1"))

    def in_flight(self, name: str, *, is_running: bool) -> None:
        self._state((name, "1"), is_running=is_running)

    def loads_anew(self, name: str) -> None:
        """Its counters begin at 0, as those of a model that is made afresh do."""
        self._batches.pop((name, "1"), None)
        self._state((name, "1"))

    def goes(self, name: str) -> None:
        self._batches.pop((name, "1"), None)
        del self.statuses[(name, "1")]

    def _state(self, key: tuple[str, str], **changes: Any) -> None:
        batches = dict(self._batches[key])
        recalled = self._recalled[key]
        snapshot = msgspec.structs.replace(
            NO_WORK,
            success_count=sum(size * batch.count for size, batch in batches.items()),
            batches=batches,
            stages={
                "input": Histogram(0, self._transfer_ns[key], ()),
                "output": Histogram(0, 0, ()),
            },
            cache=CacheCounts(recalled, 0, 0, 0) if recalled else None,
            **changes,
        )
        self.statuses[key] = ModelStatus(*key, "ready", statistics=snapshot)

    def _reading(self) -> Reading:
        if self.sensor == "counter":
            return Reading(total_rail=self.rail, total_joules=self.true_joules)
        if self.sensor == "power":
            return Reading(total_rail=self.rail, total_watts=self.watts)
        return Reading()


MakeDevice = Callable[..., Device]


@pytest.fixture
def make_device() -> MakeDevice:
    """Looked at once: from there on it is metered."""

    def make(sensor: str = "counter", **settings: Any) -> Device:
        device = Device(Cost(**settings), sensor)
        device.look()
        return device

    return make

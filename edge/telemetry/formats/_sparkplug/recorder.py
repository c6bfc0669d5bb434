"""What of the figures has changed since the last look, and the events beside them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from edge.telemetry.figures import Figure
from edge.telemetry.formats._sparkplug.payload import DataType, Metric, Value
from edge.telemetry.reports import Metrics

NODE = ""
"""The device's own figures are those of the node; each model is a device of it."""
EVENT = "event/"
GAP = f"{EVENT}gap"

_FORBIDDEN = re.compile(r"[+#/\0]")
_TYPES = {
    "number": DataType.DOUBLE,
    "integer": DataType.INT64,
    "truth": DataType.BOOLEAN,
    "text": DataType.STRING,
    "time": DataType.DATETIME,
}
_ALWAYS = (GAP, f"{EVENT}command")  # so that the first of them takes no other birth

Values = dict[str, Metric]
"""By name; only events have a timestamp."""
Change = dict[str, Value | None]
"""By name: what is otherwise now."""


class State(msgspec.Struct, frozen=True):
    """How all things are: values by device, by the changes up to ``number``."""

    values: Mapping[str, Values] = {}
    number: int = 0


class Told(msgspec.Struct, frozen=True):
    """A change of one device, or an event, and when it was; ``number`` as in `State`."""

    device: str
    change: Change
    number: int
    at_ms: int
    has_waited: bool


class Recorder:
    """``values`` are all that there are, by device: what a birth tells."""

    def __init__(self) -> None:
        self.values: dict[str, Values] = {}
        self._events: dict[str, Values] = {NODE: {name: _text(name) for name in _ALWAYS}}

    def look(self, figures: Iterable[Figure]) -> list[tuple[str, Change]]:
        """Take in how things are; returns what has changed of each device."""
        found: dict[str, Values] = {}
        for figure in figures:
            quantity = figure.quantity
            metric = Metric(figure.name, _TYPES[quantity.kind], figure.value, unit=quantity.unit)
            found.setdefault(device_name(figure.model), {})[figure.name] = metric
        before = self.values
        self._events = {name: one for name, one in self._events.items() if name in {NODE, *found}}
        self.values = {
            name: {**values, **self._events.get(name, {})} for name, values in found.items()
        }
        changes = []
        for device, values in found.items():
            known = before.get(device, {})
            change = {name: one.value for name, one in values.items() if known.get(name) != one}
            if change:
                changes.append((device, change))
        return changes

    def note(self, event: str, told: Metrics, now_ms: int) -> tuple[str, Change]:
        """Take in an event: one metric for each type, whose value is all that it says."""
        about = (device_name(str(told[key])) for key in ("model", "name") if told.get(key))
        device = next((name for name in about if name in self.values), NODE)
        metric = _text(f"{EVENT}{event}", msgspec.json.encode(told).decode(), now_ms)
        self._events.setdefault(device, {})[metric.name] = metric
        if device in self.values:
            self.values = {**self.values, device: {**self.values[device], metric.name: metric}}
        return device, {metric.name: metric.value}


def device_name(model: str) -> str:
    """A model's name without what can't be part of a topic."""
    return _FORBIDDEN.sub("_", model)


def _text(name: str, value: str | None = None, at_ms: int | None = None) -> Metric:
    return Metric(name, DataType.STRING, value, at_ms)

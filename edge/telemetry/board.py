"""The newest of each device and model, folded from the messages that arrived."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from edge.telemetry.lines import Metrics, number, printable, tables

if TYPE_CHECKING:
    from edge.telemetry.watcher import Arrival

TREND = 8
SILENT_AFTER_S = 20.0
_SILENT_AFTER_INTERVALS = 4
_LONGEST_INTERVAL_S = 3600.0
_EVENTS = 4
_MOST_MODELS = 256  # of a device: names come from a network

Key = tuple[str, str]


class ModelRow(msgspec.Struct):
    """The newest that is known of a version; ``rates`` are the last ones, oldest first."""

    state: Metrics = {}
    sample: Metrics = {}
    health: Metrics = {}
    rates: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=TREND))


class DeviceBoard(msgspec.Struct):
    """The newest that is known of a device, and of its models by name and version.

    Attributes:
        served: By name of the model: the state of the version that serves.
        reported: How far it is from what is desired of it.
        heard_s: Monotonic clock of the last message that was not retained; 0 for none.
        interval_s: That of its samples, as it says.
        events: By type, the name of the model and its version: the last one.
    """

    name: str
    status: Metrics = {}
    info: Metrics = {}
    sample: Metrics = {}
    reported: Metrics = {}
    cost: Metrics = {}
    served: dict[str, Metrics] = {}
    models: dict[Key, ModelRow] = {}
    events: dict[tuple[str, str, str], Metrics] = {}
    heard_s: float = 0.0
    interval_s: float = 0.0

    @property
    def is_online(self) -> bool:
        return self.status.get("state") == "online"

    def silent_s(self, now_s: float) -> float:
        """How long it should have been heard and was not; 0 for one that was not expected to be."""
        quiet_s = now_s - self.heard_s if self.heard_s else 0.0
        patience_s = max(SILENT_AFTER_S, _SILENT_AFTER_INTERVALS * self.interval_s)
        return quiet_s if quiet_s > patience_s else 0.0


class Board:
    """Everything that a view shows."""

    def __init__(self) -> None:
        self.devices: dict[Key, DeviceBoard] = {}
        self.events: deque[Arrival] = deque(maxlen=_EVENTS)

    def add(self, arrival: Arrival) -> None:
        device = self.device(arrival.fleet, arrival.device)
        if not arrival.is_retained:
            device.heard_s = max(device.heard_s, arrival.at_s)
        kind, _, rest = arrival.path.partition("/")
        metrics = arrival.metrics
        if kind in ("status", "info"):
            setattr(device, kind, metrics)
        elif kind == "model":
            _set_state(device, rest, metrics)
        elif kind == "event":
            self.events.append(arrival)
            _set_event(device, rest, metrics)
        elif kind == "tele":
            _set_sample(device, rest, metrics)

    def device(self, fleet: str, name: str) -> DeviceBoard:
        """The one of that name; an empty one if nothing was heard of it before."""
        device = self.devices.get((fleet, name))
        if device is None:
            title = printable(f"{fleet}/{name}")
            device = self.devices[fleet, name] = DeviceBoard(name=title)
        return device


def _set_state(device: DeviceBoard, name: str, metrics: Metrics) -> None:
    if metrics:
        device.served[name] = metrics
        _row(device, metrics).state = metrics
        return
    device.served.pop(name, None)  # it is gone
    device.models = {key: row for key, row in device.models.items() if key[0] != name}


def _set_event(device: DeviceBoard, kind: str, metrics: Metrics) -> None:
    key = (kind, *key_of(metrics))
    if key in device.events or len(device.events) < _MOST_MODELS:
        device.events[key] = metrics


def _set_sample(device: DeviceBoard, kind: str, metrics: Metrics) -> None:
    if kind == "device":
        device.sample = metrics
    elif kind == "cost":
        device.cost = metrics
    elif kind == "health":
        for health in tables(metrics.get("models")):
            _row(device, health).health = health
    elif kind == "model":
        device.interval_s = min(number(metrics.get("window_s")) or 0.0, _LONGEST_INTERVAL_S)
        for sample in tables(metrics.get("models")):
            row = _row(device, sample)
            row.sample = sample
            row.rates.append(number(sample.get("success_per_s")) or 0.0)


def _row(device: DeviceBoard, metrics: Metrics) -> ModelRow:
    key = key_of(metrics)
    row = device.models.get(key)
    if row is None:
        row = ModelRow()
        if len(device.models) < _MOST_MODELS:
            device.models[key] = row
    return row


def key_of(metrics: Metrics) -> Key:
    """The model and the version that metrics are of, whatever a device put there."""
    return str(metrics.get("name", "?")), str(metrics.get("version", ""))

"""What an edge node says between its birth and its death. Pure: no clock, no file, no network.

The node is the device, with all figures that are not of a model; each model is a device of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from edge.telemetry.figures import Figure
from edge.telemetry.formats._sparkplug.payload import DataType, Metric, Payload, encode

NAMESPACE = "spBv1.0"
NUMBERS = 256  # of seq and of bdSeq: after 255 comes 0
REBIRTH = "Node Control/Rebirth"
BIRTH_NUMBER = "bdSeq"
_NODE = ""
_FORBIDDEN = re.compile(r"[+#/\0]")
_TYPES = {
    "number": DataType.DOUBLE,
    "integer": DataType.INT64,
    "truth": DataType.BOOLEAN,
    "text": DataType.STRING,
    "time": DataType.DATETIME,
}

Values = dict[str, Metric]
"""By name, without a timestamp."""


class Message(msgspec.Struct, frozen=True):
    """What is to be published at QoS 0, not retained."""

    topic: str
    payload: bytes


class Names(msgspec.Struct, frozen=True):
    """The topics of one node and its devices."""

    group: str
    node: str

    def of(self, kind: str, device: str = _NODE) -> str:
        path = f"{NAMESPACE}/{self.group}/{kind}/{self.node}"
        return f"{path}/{device}" if device else path


class Session:
    """One session with a broker: from CONNECT, which has ``birth_number`` in its will, to its end.

    What is told is remembered, so that only what changes is told again.
    """

    def __init__(self, names: Names, birth_number: int) -> None:
        self._names = names
        self._number = Metric(BIRTH_NUMBER, DataType.INT64, birth_number)
        self._seq = 0
        self._told: dict[str, Values] = {}

    @property
    def is_born(self) -> bool:
        return bool(self._told)

    def death(self) -> Message:
        """The same as a will and as a goodbye: nothing that is not known at CONNECT."""
        payload = Payload((self._number,), None, None)
        return Message(self._names.of("NDEATH"), encode(payload, is_birth=True))

    def birth(self, figures: Iterable[Figure], now_ms: int) -> list[Message]:
        """All there is, of the node first and then of each device; also when born before."""
        self._told = {}
        self._seq = 0
        values = _by_device(figures)
        node = {
            self._number.name: self._number,
            REBIRTH: Metric(REBIRTH, DataType.BOOLEAN, False),
            **values.pop(_NODE, {}),
        }
        messages = [self._birth_of(_NODE, node, now_ms)]
        return messages + [self._birth_of(name, of, now_ms) for name, of in values.items()]

    def data(self, figures: Iterable[Figure], now_ms: int) -> list[Message]:
        """What has changed since it was told; what a birth did not name takes another birth."""
        figures = list(figures)
        now = _by_device(figures)
        if not _fits(now.get(_NODE, {}), self._told[_NODE]):
            return self.birth(figures, now_ms)
        messages = []
        for name in [name for name in self._told if name and name not in now]:
            del self._told[name]
            messages.append(self._message("DEATH", name, (), now_ms))
        for name, values in now.items():
            told = self._told.get(name)
            if told is None or not _fits(values, told):
                messages.append(self._birth_of(name, values, now_ms))
            elif changed := {key: one for key, one in values.items() if told[key] != one}:
                told |= changed
                messages.append(self._message("DATA", name, changed.values(), now_ms))
        return messages

    def _birth_of(self, name: str, values: Values, now_ms: int) -> Message:
        self._told[name] = dict(values)
        return self._message("BIRTH", name, values.values(), now_ms)

    def _message(self, kind: str, name: str, metrics: Iterable[Metric], now_ms: int) -> Message:
        dated = tuple(msgspec.structs.replace(one, timestamp_ms=now_ms) for one in metrics)
        payload = Payload(dated, now_ms, self._seq)
        self._seq = (self._seq + 1) % NUMBERS
        topic = self._names.of(f"{'D' if name else 'N'}{kind}", name)
        return Message(topic, encode(payload, is_birth=kind == "BIRTH"))


def device_name(model: str) -> str:
    """A model's name without what can't be part of a topic."""
    return _FORBIDDEN.sub("_", model)


def _by_device(figures: Iterable[Figure]) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for figure in figures:
        quantity = figure.quantity
        metric = Metric(figure.name, _TYPES[quantity.kind], figure.value, unit=quantity.unit)
        found.setdefault(device_name(figure.model), {})[figure.name] = metric
    return found


def _fits(values: Values, told: Values) -> bool:
    """Whether the birth has named all of them, with these types and units."""
    return all(
        name in told and (told[name].type, told[name].unit) == (one.type, one.unit)
        for name, one in values.items()
    )

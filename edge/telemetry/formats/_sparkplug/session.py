"""What an edge node says between its birth and its death. Pure: no clock, no file, no network.

The node is the device, with all figures that are not of a model; each model is a device of it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edge.telemetry.formats._sparkplug.payload import DataType, Metric, Payload, Value, encode
from edge.telemetry.formats._sparkplug.recorder import EVENT, NODE, State, Told, Values

NAMESPACE = "spBv1.0"
NUMBERS = 256  # of seq and of bdSeq: after 255 comes 0
REBIRTH = "Node Control/Rebirth"
BIRTH_NUMBER = "bdSeq"
_KINDS: dict[DataType | None, tuple[type, ...]] = {
    DataType.BOOLEAN: (bool,),
    DataType.INT64: (int,),
    DataType.DATETIME: (int,),
    DataType.DOUBLE: (int, float),
    DataType.STRING: (str,),
}


class Message(msgspec.Struct, frozen=True):
    """What is to be published at QoS 0, not retained."""

    topic: str
    payload: bytes


class Names(msgspec.Struct, frozen=True):
    """The topics of one node and its devices."""

    group: str
    node: str

    def of(self, kind: str, device: str = NODE) -> str:
        path = f"{NAMESPACE}/{self.group}/{kind}/{self.node}"
        return f"{path}/{device}" if device else path


class Session:
    """One session with a broker: from CONNECT, which has ``birth_number`` in its will, to its end.

    What births have named is remembered: nothing else may be told.
    """

    def __init__(self, names: Names, birth_number: int) -> None:
        self._names = names
        self._number = Metric(BIRTH_NUMBER, DataType.INT64, birth_number)
        self._seq = 0
        self._named: dict[str, Values] = {}
        self._covered: dict[str, int] = {}
        self._followed: State | None = None

    @property
    def is_born(self) -> bool:
        return bool(self._named)

    def death(self) -> Message:
        """The same as a will and as a goodbye: nothing that is not known at CONNECT."""
        payload = Payload((self._number,), None, None)
        return Message(self._names.of("NDEATH"), encode(payload, is_birth=True))

    def birth(self, state: State, now_ms: int) -> list[Message]:
        """All there is, of the node first and then of each device; also when born before."""
        self._named = {}
        self._followed = state
        self._seq = 0
        rebirth = Metric(REBIRTH, DataType.BOOLEAN, False)
        node = {BIRTH_NUMBER: self._number, REBIRTH: rebirth, **state.values.get(NODE, {})}
        messages = [self._birth_of(NODE, node, state.number, now_ms)]
        return messages + [
            self._birth_of(name, values, state.number, now_ms)
            for name, values in state.values.items()
            if name != NODE
        ]

    def follow(self, state: State, now_ms: int) -> list[Message]:
        """Births of what came or has more to tell than its birth has named, deaths of what went."""
        if state is self._followed:
            return []
        self._followed = state
        if not _fits(state.values.get(NODE, {}), self._named[NODE]):
            return self.birth(state, now_ms)
        messages = []
        for name in [name for name in self._named if name != NODE and name not in state.values]:
            del self._named[name]
            messages.append(self._message("DEATH", name, (), now_ms))
        for name, values in state.values.items():
            if not _fits(values, self._named.get(name)):
                messages.append(self._birth_of(name, values, state.number, now_ms))
        return messages

    def data(self, told: Told, now_ms: int) -> list[Message]:
        """A change, as far as births have named it; of the past where a birth came after it."""
        named = self._named.get(told.device, {})
        is_covered = not told.has_waited and told.number <= self._covered.get(told.device, 0)
        metrics = [
            msgspec.structs.replace(
                named[name],
                value=value,
                timestamp_ms=told.at_ms,
                is_historical=told.has_waited or is_covered,
            )
            for name, value in told.change.items()
            if name in named and _is_of(named[name].type, value)
            # What a birth has told already; of events it knows the last of each kind only.
            if not (is_covered and named[name].value == value and not name.startswith(EVENT))
        ]
        return [self._message("DATA", told.device, metrics, now_ms)] if metrics else []

    def _birth_of(self, name: str, values: Values, number: int, now_ms: int) -> Message:
        self._named[name], self._covered[name] = dict(values), number
        dated = [
            msgspec.structs.replace(one, timestamp_ms=one.timestamp_ms or now_ms)
            for one in values.values()
        ]
        dated.sort(key=lambda one: one.timestamp_ms or 0)
        return self._message("BIRTH", name, dated, now_ms)

    def _message(self, kind: str, name: str, metrics: Iterable[Metric], now_ms: int) -> Message:
        payload = Payload(tuple(metrics), now_ms, self._seq)
        self._seq = (self._seq + 1) % NUMBERS
        topic = self._names.of(f"{'D' if name else 'N'}{kind}", name)
        return Message(topic, encode(payload, is_birth=kind == "BIRTH"))


def _fits(values: Values, named: Values | None) -> bool:
    """Whether the birth has named all of them, with these types and units."""
    return named is not None and all(
        name in named and (named[name].type, named[name].unit) == (one.type, one.unit)
        for name, one in values.items()
    )


def _is_of(kind: DataType | None, value: Value | None) -> bool:
    """Whether a value, which may be of another version of this program, is of that type."""
    is_bool = isinstance(value, bool)
    return value is None or (
        isinstance(value, _KINDS.get(kind, ())) and is_bool == (kind == DataType.BOOLEAN)
    )

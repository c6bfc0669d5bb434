"""The payload of Sparkplug B as protocol buffers, as far as an edge node needs it.

Numbers of fields after sparkplug_b.proto of Eclipse Tahu. An encoder of our own, as ten fields are
less than a dependency: the protobuf package (7.36) takes 16 MB of memory and 1.5 MB of disk, and
these messages would have to be described to it at the length of this. The tests compare the two.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

import msgspec

from edge.core.errors import InputError

Value = bool | int | float | str

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10
_64_BITS = (1 << 64) - 1

# Payload
_TIMESTAMP, _METRICS, _SEQ = 1, 2, 3
# Metric
_NAME, _METRIC_TIMESTAMP, _TYPE, _IS_HISTORICAL, _IS_NULL, _PROPERTIES = 1, 3, 4, 5, 7, 9
_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN, _STRING = 10, 11, 12, 13, 14, 15
# PropertySet and PropertyValue
_KEYS, _VALUES = 1, 2
_PROPERTY_TYPE, _PROPERTY_STRING = 1, 8
_UNIT_KEY = "engUnit"  # what hosts show beside the value


class DataType(IntEnum):
    """Those that are used here, of the many that there are."""

    INT64 = 4
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATETIME = 13


class Metric(msgspec.Struct, frozen=True):
    """A value by its name. ``type`` is None in what was received without one.

    One that is historical is of the past: hosts keep it, and take it for nothing that is now.
    """

    name: str
    type: DataType | None
    value: Value | None
    timestamp_ms: int | None = None
    unit: str = ""
    is_historical: bool = False


class Payload(msgspec.Struct, frozen=True):
    """``seq`` is None in a death of the node, which has none."""

    metrics: tuple[Metric, ...]
    timestamp_ms: int | None
    seq: int | None


def encode(payload: Payload, *, is_birth: bool) -> bytes:
    """A birth names types and units; what comes after it does not say them again."""
    encoded = b""
    if payload.timestamp_ms is not None:
        encoded += _integer(_TIMESTAMP, payload.timestamp_ms)
    parts = [_bytes(_METRICS, _metric(one, is_birth=is_birth)) for one in payload.metrics]
    if payload.seq is not None:
        parts.append(_integer(_SEQ, payload.seq))
    return encoded + b"".join(parts)


def decode(encoded: bytes) -> Payload:
    """Read what came from outside; fields that are not used here are skipped.

    Raises:
        InputError: It is no such payload.
    """
    metrics: list[Metric] = []
    numbers: dict[int, int] = {}
    for field, value in _fields(encoded):
        if field == _METRICS:
            metrics.append(_read_metric(_as_bytes(value)))
        elif field in (_TIMESTAMP, _SEQ):
            numbers[field] = _as_integer(value)
    return Payload(tuple(metrics), numbers.get(_TIMESTAMP), numbers.get(_SEQ))


def _metric(metric: Metric, *, is_birth: bool) -> bytes:
    encoded = _bytes(_NAME, metric.name.encode())
    if metric.timestamp_ms is not None:
        encoded += _integer(_METRIC_TIMESTAMP, metric.timestamp_ms)
    if is_birth and metric.type is not None:
        encoded += _integer(_TYPE, metric.type)
    if metric.is_historical:
        encoded += _integer(_IS_HISTORICAL, 1)
    if metric.value is None:
        encoded += _integer(_IS_NULL, 1)
    if is_birth and metric.unit:
        encoded += _bytes(_PROPERTIES, _unit(metric.unit))
    return encoded if metric.value is None else encoded + _value(metric.type, metric.value)


def _value(kind: DataType | None, value: Value) -> bytes:
    if kind == DataType.BOOLEAN:
        return _integer(_BOOLEAN, int(bool(value)))
    if kind == DataType.DOUBLE:
        return _tag(_DOUBLE, _FIXED64) + struct.pack("<d", float(value))
    if kind in (DataType.INT64, DataType.DATETIME):
        return _integer(_LONG, int(value))
    return _bytes(_STRING, str(value).encode())


def _unit(unit: str) -> bytes:
    value = _integer(_PROPERTY_TYPE, DataType.STRING) + _bytes(_PROPERTY_STRING, unit.encode())
    return _bytes(_KEYS, _UNIT_KEY.encode()) + _bytes(_VALUES, value)


def _read_metric(encoded: bytes) -> Metric:
    name, kind, when = "", None, None
    value: Value | None = None
    for field, told in _fields(encoded):
        if field == _NAME:
            name = _as_text(told)
        elif field == _METRIC_TIMESTAMP:
            when = _as_integer(told)
        elif field == _TYPE and _as_integer(told) in list(DataType):
            kind = DataType(_as_integer(told))
        elif field in (_INT, _LONG):
            number = _as_integer(told)
            value = number - (1 << 64) if field == _LONG and number >> 63 else number
        elif field == _BOOLEAN:
            value = bool(_as_integer(told))
        elif field == _STRING:
            value = _as_text(told)
        elif field == _DOUBLE:
            value = _unpacked("<d", told)
        elif field == _FLOAT:
            value = _unpacked("<f", told)
    return Metric(name, kind, value, when)


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _integer(field: int, value: int) -> bytes:
    return _tag(field, _VARINT) + _varint(value & _64_BITS)


def _bytes(field: int, value: bytes) -> bytes:
    return _tag(field, _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _fields(encoded: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an integer, or the bytes of all else."""
    place = 0
    while place < len(encoded):
        tag, place = _read_varint(encoded, place)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            number, place = _read_varint(encoded, place)
            yield field, number
            continue
        if wire_type == _BYTES:
            length, place = _read_varint(encoded, place)
        elif wire_type in _FIXED:
            length = _FIXED[wire_type]
        else:
            raise InputError(f"no Sparkplug payload: a field of wire type {wire_type}")
        if place + length > len(encoded):
            raise InputError("no Sparkplug payload: it ends in the middle of a field")
        yield field, encoded[place : place + length]
        place += length


def _read_varint(encoded: bytes, place: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(encoded[place : place + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & _64_BITS, place + index + 1
    raise InputError("no Sparkplug payload: a number has no end")


def _as_integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise InputError("no Sparkplug payload: bytes where a number belongs")
    return value


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise InputError("no Sparkplug payload: a number where bytes belong")
    return value


def _as_text(value: int | bytes) -> str:
    try:
        return _as_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"no Sparkplug payload: a text is not UTF-8: {error}") from error


def _unpacked(form: str, value: int | bytes) -> float:
    try:
        return float(struct.unpack(form, _as_bytes(value))[0])
    except struct.error as error:
        raise InputError(f"no Sparkplug payload: {error}") from error

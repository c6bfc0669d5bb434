"""Our few fields of protocol buffers against the protobuf package, and against garbage."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import InputError
from edge.telemetry.formats._sparkplug.payload import DataType, Metric, Payload, decode, encode

INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)
TIMES = st.integers(0, (1 << 63) - 1)
VALUES = {
    DataType.INT64: INTEGERS,
    DataType.DATETIME: TIMES,
    DataType.DOUBLE: st.floats(allow_nan=False),
    DataType.BOOLEAN: st.booleans(),
    DataType.STRING: st.text(),
}
FIELDS = {
    DataType.INT64: "long_value",
    DataType.DATETIME: "long_value",
    DataType.DOUBLE: "double_value",
    DataType.BOOLEAN: "boolean_value",
    DataType.STRING: "string_value",
}
METRICS = st.sampled_from(list(DataType)).flatmap(
    lambda kind: st.builds(
        Metric,
        name=st.text(),
        type=st.just(kind),
        value=st.none() | VALUES[kind],
        timestamp_ms=st.none() | TIMES,
        unit=st.text(),
    )
)
PAYLOADS = st.builds(
    Payload,
    metrics=st.lists(METRICS, max_size=4).map(tuple),
    timestamp_ms=st.none() | TIMES,
    seq=st.none() | st.integers(0, 255),
)


@given(payload=PAYLOADS)
def test_protobuf_reads_what_a_birth_says(proto: Any, payload: Payload) -> None:
    read = proto.FromString(encode(payload, is_birth=True))
    assert read.HasField("seq") == (payload.seq is not None)
    assert (read.seq, read.timestamp) == (payload.seq or 0, payload.timestamp_ms or 0)
    assert len(read.metrics) == len(payload.metrics)
    for told, metric in zip(read.metrics, payload.metrics, strict=True):
        assert (told.name, told.datatype, told.is_null) == (
            metric.name,
            metric.type,
            metric.value is None,
        )
        assert told.HasField("timestamp") == (metric.timestamp_ms is not None)
        assert told.timestamp == (metric.timestamp_ms or 0)
        if metric.value is not None and metric.type is not None:
            value = getattr(told, FIELDS[metric.type])
            if FIELDS[metric.type] == "long_value" and value >> 63:
                value -= 1 << 64
            assert value == metric.value
        assert list(told.properties.keys) == (["engUnit"] if metric.unit else [])
        assert [one.string_value for one in told.properties.values] == list(
            filter(None, [metric.unit])
        )


@given(payload=PAYLOADS)
def test_data_says_neither_types_nor_units_again(proto: Any, payload: Payload) -> None:
    read = proto.FromString(encode(payload, is_birth=False))
    assert not any(one.HasField("datatype") or one.HasField("properties") for one in read.metrics)


@given(payload=PAYLOADS)
def test_what_is_encoded_is_decoded_to_the_same_values(payload: Payload) -> None:
    read = decode(encode(payload, is_birth=True))
    assert (read.seq, read.timestamp_ms) == (payload.seq, payload.timestamp_ms)
    assert [(one.name, one.type, one.value) for one in read.metrics] == [
        (one.name, one.type, one.value) for one in payload.metrics
    ]


def test_what_a_host_may_send_is_read_whatever_its_types(proto: Any) -> None:
    sent = proto(timestamp=5, uuid="u", body=b"\0")
    sent.metrics.add(name="a", alias=3, datatype=3, int_value=7, is_historical=True)
    sent.metrics.add(name="b", datatype=9, float_value=1.5)
    sent.metrics.add(name="c", datatype=18, bytes_value=b"x")
    sent.metrics.add(name="d", long_value=2)
    read = decode(sent.SerializeToString())
    assert [(one.name, one.type, one.value) for one in read.metrics] == [
        ("a", None, 7),
        ("b", None, 1.5),
        ("c", None, None),
        ("d", None, 2),
    ]


@given(garbage=st.binary(max_size=64))
def test_garbage_is_an_error_of_ours_or_a_payload(garbage: bytes) -> None:
    with contextlib.suppress(InputError):  # and no other
        assert isinstance(decode(garbage), Payload)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x12\x05ab",  # ends in the middle
        b"\x10" + b"\xff" * 11,  # a number without an end
        b"\x10\x01",  # metrics that are a number
        b"\x0a\x00",  # a timestamp of bytes
        b"\x0b",  # groups, which nobody has sent for long
        b"\x12\x03\x0a\x01\xff",  # a name that is no text
        b"\x12\x03\x6a\x01a",  # a double of one byte
    ],
)
def test_damaged_payloads_are_refused(garbage: bytes) -> None:
    with pytest.raises(InputError):
        decode(garbage)


def test_a_number_that_is_none_is_told_as_it_is(proto: Any) -> None:
    metric = Metric("x", DataType.DOUBLE, math.nan)
    read = proto.FromString(encode(Payload((metric,), 0, 0), is_birth=True))
    assert math.isnan(read.metrics[0].double_value)

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.core.errors import EdgeError, InputError, UnsupportedError
from edge.core.tensor import TensorSpec
from edge.server.kserve.codec import Answer, Codec
from edge.server.kserve.datatypes import bytes_from_tensor, datatype_of, tensor_from_bytes

NUMERIC = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
NAMES = ("a", "b")


def codec(*dtypes: str, rank: int = 2) -> Codec:
    shape = tuple(f"d{axis}" for axis in range(rank))
    specs = tuple(TensorSpec(n, d, shape) for n, d in zip(NAMES, dtypes, strict=False))
    return Codec("m", "1", specs, specs)


def body_of(request: dict[str, Any], *raw: bytes) -> tuple[np.ndarray[Any, Any], int]:
    head = json.dumps(request).encode()
    return np.frombuffer(head + b"".join(raw), np.uint8), len(head)


def tensor(name: str, datatype: str, shape: list[int], **rest: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **rest}


def binary(name: str, datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    return tensor(name, datatype, shape, parameters={"binary_data_size": size})


def answered(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bytes(answer.parts[0]))
    return document


def arrays(dtype: str) -> st.SearchStrategy[Any]:
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=4)
    return hnp.arrays(dtype, shapes, elements=finite)


@given(st.sampled_from(NUMERIC).flatmap(arrays))
def test_numbers_survive_the_way_through_binary(array: Any) -> None:
    dtype = array.dtype.name
    raw = array.tobytes()
    request = {"inputs": [binary("a", datatype_of(dtype), list(array.shape), len(raw))]}
    call = codec(dtype).decode(*body_of(request, raw))
    np.testing.assert_array_equal(call.feeds["a"], array)
    assert call.feeds["a"].dtype == array.dtype
    assert bytes(bytes_from_tensor(call.feeds["a"])) == raw


@given(st.sampled_from(NUMERIC).flatmap(arrays), st.booleans())
def test_numbers_survive_the_way_through_json(array: Any, is_nested: bool) -> None:
    data = array.tolist() if is_nested and array.size else array.ravel().tolist()
    name = datatype_of(array.dtype.name)
    request = {"inputs": [tensor("a", name, list(array.shape), data=data)]}
    body, _ = body_of(request)
    model = codec(array.dtype.name)
    call = model.decode(body, None)
    np.testing.assert_array_equal(call.feeds["a"], array)
    answer = model.encode(call, call.feeds)
    output = answered(answer)["outputs"][0]
    assert answer.json_bytes is None
    np.testing.assert_array_equal(
        np.array(output["data"], array.dtype).reshape(output["shape"]), array
    )


@given(st.lists(st.text(), max_size=5))
def test_text_survives_both_ways(texts: list[str]) -> None:
    raw = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    shape = [1, len(texts)]
    model = codec("string")
    request = {"inputs": [binary("a", "BYTES", shape, len(raw))]}
    call = model.decode(*body_of(request, raw))
    assert call.feeds["a"].ravel().tolist() == texts
    assert bytes(bytes_from_tensor(call.feeds["a"])) == raw
    body, _ = body_of({"inputs": [tensor("a", "BYTES", shape, data=texts)]})
    assert model.decode(body, None).feeds["a"].ravel().tolist() == texts


def test_bfloat16_is_two_bytes_and_numbers_in_json() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    array = np.array([[1.5, -2.0]], bfloat16)
    model = codec("bfloat16")
    request = {"inputs": [binary("a", "BF16", [1, 2], 4)]}
    call = model.decode(*body_of(request, array.tobytes()))
    assert call.feeds["a"].tobytes() == array.tobytes()
    assert answered(model.encode(call, {"a": array}))["outputs"][0]["data"] == [1.5, -2.0]


def test_a_large_tensor_is_a_view_of_the_body_and_of_the_output() -> None:
    array = np.ones((1, 4096), np.float32)
    request = {"inputs": [binary("a", "FP32", [1, 4096], array.nbytes)]}
    body, json_bytes = body_of(request, array.tobytes())
    model = codec("float32")
    call = model.decode(body, json_bytes)
    assert np.shares_memory(call.feeds["a"], body)
    assert np.shares_memory(np.frombuffer(bytes_from_tensor(array), np.uint8), array)


def test_outputs_come_in_the_order_asked_for_each_in_its_own_form() -> None:
    model = codec("int32", "int32")
    feeds = [binary(name, "INT32", [1, 1], 4) for name in NAMES]
    wanted = [{"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}]
    request = {
        "id": "x7",
        "inputs": feeds,
        "outputs": wanted,
        "parameters": {"binary_data_output": True},
    }
    body, json_bytes = body_of(request, struct.pack("<ii", 1, 2))
    call = model.decode(body, json_bytes)
    answer = model.encode(call, call.feeds)
    document = answered(answer)
    assert [output["name"] for output in document["outputs"]] == ["b", "a"]
    assert document["outputs"][0]["data"] == [2]
    assert document["outputs"][1]["parameters"] == {"binary_data_size": 4}
    assert (document["id"], document["model_version"]) == ("x7", "1")
    assert [bytes(part) for part in answer.parts[1:]] == [struct.pack("<i", 1)]
    assert answer.json_bytes == len(answer.parts[0])


def test_a_body_without_json_is_the_only_input_and_gives_the_free_dimension() -> None:
    model = Codec("m", "1", (TensorSpec("a", "int16", ("batch", 3)),), ())
    call = model.decode(np.frombuffer(struct.pack("<6h", *range(6)), np.uint8), 0)
    assert call.feeds["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    text = Codec("m", "1", (TensorSpec("a", "string", (1,)),), ())
    assert text.decode(np.frombuffer(b"hello", np.uint8), 0).feeds["a"].tolist() == ["hello"]


@pytest.mark.parametrize("size", [0, 5, 7])
def test_a_body_without_json_must_be_whole(size: int) -> None:
    model = Codec("m", "1", (TensorSpec("a", "int16", (3,)),), ())
    with pytest.raises(InputError, match="takes 6 bytes"):
        model.decode(np.zeros(size, np.uint8), 0)


def test_a_body_without_json_is_refused_where_its_shape_is_not_known() -> None:
    with pytest.raises(InputError, match="several dynamic"):
        codec("int8").decode(np.zeros(4, np.uint8), 0)
    with pytest.raises(InputError, match="one input"):
        codec("int8", "int8").decode(np.zeros(4, np.uint8), 0)


GOOD = tensor("a", "FP32", [1, 2], data=[1, 2])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "not an inference request"),
        ({"inputs": [{**GOOD, "shape": [1, -2]}]}, "not an inference request"),
        ({"inputs": [{**GOOD, "shape": [2, 2]}]}, "takes 4 elements, got 2"),
        ({"inputs": [{**GOOD, "shape": [2, 1], "data": [[1, 2]]}]}, "its data"),
        ({"inputs": [{**GOOD, "data": [[1, 2], [3]]}]}, "does not hold FP32"),
        ({"inputs": [{**GOOD, "data": ["1", "2"]}]}, "does not hold FP32"),
        ({"inputs": [{**GOOD, "data": [1e300, 0]}]}, "does not hold FP32"),
        ({"inputs": [{**GOOD, "shape": [1] * 99, "data": [[1]]}]}, "can not have the shape"),
        ({"inputs": [{**GOOD, "shape": [0, 2**63], "data": []}]}, "can not have the shape"),
        ({"inputs": [{**GOOD, "datatype": "INT32"}]}, "'a' of m is FP32, got INT32"),
        ({"inputs": [{**GOOD, "name": "z"}]}, "m has no input 'z'"),
        ({"inputs": [GOOD, GOOD]}, "given twice"),
        ({"inputs": [tensor("a", "FP32", [1, 2])]}, "neither data nor"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 8}}]}, "both data and"),
        ({"inputs": [binary("a", "FP32", [1, 2], 8)]}, "Inference-Header-Content-Length"),
        ({"inputs": [GOOD], "outputs": [{"name": "z"}]}, "m has no output 'z'"),
        ({"inputs": [GOOD], "outputs": [{"name": "a"}] * 2}, "asked for twice"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(request_: Any, message: str) -> None:
    body, _ = body_of(request_)
    with pytest.raises(InputError, match=message):
        codec("float32").decode(body, None)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int8", 128),
        ("uint8", -1),
        ("uint64", 2**64),
        ("int64", 2**63),
        ("int32", 1.5),
        ("bool", 2),
    ],
)
def test_json_never_wraps_or_cuts_a_number(dtype: str, value: float) -> None:
    request = {"inputs": [tensor("a", datatype_of(dtype), [1, 1], data=[value])]}
    body, _ = body_of(request)
    with pytest.raises(InputError, match="does not hold"):
        codec(dtype).decode(body, None)


@pytest.mark.parametrize(
    ("declared", "sent", "message"),
    [
        (8, 4, "only 4 bytes left"),
        (8, 9, "1 bytes after its last input"),
        (4, 4, "takes 8 bytes, got 4"),
    ],
)
def test_binary_data_must_be_all_there_and_no_more(declared: int, sent: int, message: str) -> None:
    request = {"inputs": [binary("a", "FP32", [1, 2], declared)]}
    with pytest.raises(InputError, match=message):
        codec("float32").decode(*body_of(request, bytes(sent)))


def test_a_header_longer_than_the_body_is_refused() -> None:
    body, json_bytes = body_of({"inputs": []})
    with pytest.raises(InputError, match="the body has"):
        codec("float32").decode(body, json_bytes + 1)


@pytest.mark.parametrize(
    ("dtype", "raw", "message"),
    [
        ("string", b"\x01\x00", "ends within"),
        ("string", b"\x05\x00\x00\x00ab", "takes 5 bytes"),
        ("string", b"\xff\xff\xff\xffab", "only 2 are left"),
        ("string", b"\x01\x00\x00\x00\xff", "is not UTF-8"),
        ("string", b"", "takes 1 elements, got 0"),
        ("bool", b"\x02", "neither 0 nor 1"),
    ],
)
def test_damaged_elements_are_refused(dtype: str, raw: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tensor_from_bytes("a", dtype, (1,), np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_output_that_json_can_not_carry_says_so(value: float) -> None:
    model = codec("float32")
    body, _ = body_of({"inputs": [GOOD]})
    call = model.decode(body, None)
    with pytest.raises(InputError, match="NaN or infinity") as caught:
        model.encode(call, {"a": np.array([[value]], np.float32)})
    assert "binary_data" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"sequence_id": 3}},
        {"inputs": [{**GOOD, "parameters": {"shared_memory_region": "r"}}]},
        {"outputs": [{"name": "a", "parameters": {"classification": 2}}]},
        {"outputs": [{"name": "a", "parameters": {"shared_memory_region": "r"}}]},
    ],
)
def test_extensions_that_are_not_here_are_refused_not_ignored(change: dict[str, Any]) -> None:
    body, _ = body_of({"inputs": [GOOD], **change})
    with pytest.raises(UnsupportedError):
        codec("float32").decode(body, None)


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
@example(b'{"inputs":[]}' + b"\xff" * 4, 13)
@example(b"\xff\xfe", None)
@example(b'{"x":' + b"[" * 100_000, None)
def test_any_bytes_are_decoded_or_refused(data: bytes, json_bytes: int | None) -> None:
    with contextlib.suppress(EdgeError):  # anything else is a defect
        codec("float32", "string").decode(np.frombuffer(data, np.uint8), json_bytes)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "shape", "datatype", "data", "parameters", "inputs"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_in_place_of_a_tensor_is_decoded_or_refused(value: Any) -> None:
    for request in (
        {"inputs": [value]},
        {"inputs": [{**GOOD, "data": value}]},
        {"inputs": [{**GOOD, "shape": value}]},
        {"inputs": [GOOD], "outputs": value, "parameters": value},
    ):
        body, _ = body_of(request)
        with contextlib.suppress(EdgeError):
            codec("float32").decode(body, None)

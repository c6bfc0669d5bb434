"""FP16 by casts: what is cast, what stays, and that emulation rounds as FP16 does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters._quantization.onnx_sensitivity import answers
from converters._tensorrt import half
from converters._tensorrt.emulation import emulated
from converters._tensorrt.network import inferred
from edge.core.errors import ModelError


def _types(model: onnx.ModelProto) -> dict[str, int]:
    return {
        value.name: value.type.tensor_type.elem_type for value in inferred(model).graph.value_info
    }


def _small(nodes, weights=(), opset: int = 13) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    """x float32 (1, 4) to y of the same."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    constants = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_inputs_and_outputs_keep_their_types_and_all_between_is_fp16(rich):
    model = half.to_half(rich, {}).model
    onnx.checker.check_model(model, full_check=True)
    io = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in io} == {TensorProto.FLOAT}
    floats = {name for name, kind in _types(model).items() if kind == TensorProto.FLOAT}
    assert floats <= {"vector", "weights"}
    assert [each.op_type for each in model.graph.node].count("Cast") == 3


def test_what_onnx_takes_in_fp32_only_stays_so(rich):
    model = half.to_half(rich, {}).model
    (resize,) = (node for node in model.graph.node if node.op_type == "Resize")
    assert list(resize.input) == ["both/half", "", "scales"]


def test_a_node_out_of_range_computes_in_fp32(rich, pictures):
    peaks = {"second": 5000.0}
    kept = half.out_of_range(rich, peaks)
    assert kept == {"second": "values up to 5e+03", "sum": "values up to 5e+03"}
    model = half.to_half(rich, kept).model
    onnx.checker.check_model(model, full_check=True)
    nodes = {node.name: node for node in model.graph.node}
    assert list(nodes["second"].input) == ["first_relu", "w_second"]
    assert list(nodes["third"].input) == ["sum_relu/half", "w_third/half"]


def test_weights_beyond_fp16_keep_their_node_in_fp32():
    model = _small(
        [helper.make_node("Mul", ["x", "w"], ["y"], "mul")], [("w", np.full(4, 7e4, np.float32))]
    )
    assert list(half.out_of_range(model, {})) == ["mul"]


def test_the_limit_of_values_is_what_is_given(rich):
    assert half.out_of_range(rich, {"first": 600.0}) == {}
    assert set(half.out_of_range(rich, {"first": 600.0}, limit=512)) == {"first", "first_relu"}


def test_a_cast_to_float_becomes_one_to_half_only_where_it_is_read_so():
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], "to_int", to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["back"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["back", "x"], ["y"], "mul"),
    ]
    model = half.to_half(_small(nodes), {}).model
    onnx.checker.check_model(model, full_check=True)
    (got,) = answers(emulated(model), [{"x": np.array([[1.5, 2.5, -3, 0]], np.float32)}])
    assert got["y"].tolist() == [[1.5, 5.0, 9.0, 0.0]]


def test_branches_are_refused(branches):
    with pytest.raises(ModelError, match="If, Loop or Scan"):
        half.to_half(onnx.load(branches), {})


def test_emulation_rounds_after_every_node_as_fp16_does():
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["m"], "mul"),
        helper.make_node("Add", ["m", "x"], ["y"], "add"),
    ]
    weights = np.array([1.001, 3.3333, 7.77, 0.1], np.float32)
    x = np.array([[1.2345, 6.789, -0.01234, 3.1415]], np.float32)
    model = emulated(half.to_half(_small(nodes, [("w", weights)]), {}).model)
    (got,) = answers(model, [{"x": x}])
    x16 = x.astype(np.float16)
    want = (x16 * weights.astype(np.float16)) + x16
    np.testing.assert_array_equal(got["y"], want.astype(np.float32))
    assert not np.array_equal(got["y"], x * weights + x)


def test_emulation_overflows_where_fp16_does():
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"], "square"),
        helper.make_node("Sqrt", ["square"], ["y"], "root"),
    ]
    model = emulated(half.to_half(_small(nodes), {}).model)
    (got,) = answers(model, [{"x": np.array([[1, 200, 300, 2]], np.float32)}])
    np.testing.assert_array_equal(got["y"], np.array([[1, 200, np.inf, 2]], np.float32))


def test_emulation_gives_tensors_the_names_they_have_in_the_source(rich):
    model = emulated(half.to_half(rich, {}).model)
    made = {name for node in model.graph.node for name in node.output}
    assert {name for node in rich.graph.node for name in node.output} <= made

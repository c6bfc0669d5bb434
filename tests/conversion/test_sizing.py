"""Sizes of values: followed through the graph, taken from the file, made up, or not known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.conversion.sizing import Skeleton, Value


def _tensor(name: str, shape, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:  # type: ignore[no-untyped-def]
    return helper.make_tensor_value_info(name, kind, shape)


def _model(nodes, inputs, outputs, weights=(), told=()) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(weights), value_info=list(told))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _softmax(shape) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    return _model(
        [helper.make_node("Softmax", ["x"], ["y"])], [_tensor("x", shape)], [_tensor("y", None)]
    )


@pytest.mark.parametrize(
    ("shape", "batch", "sized", "assumed"),
    [
        (["n", 3], 2, (2, 3), {}),
        ([None, 3], 2, (2, 3), {}),
        ([4, 3], 2, (4, 3), {}),
        (["n", "t", 3], 2, (2, 128, 3), {"t": 128}),
        (["n", 3, "h", "w"], 1, (1, 3, 224, 224), {"h": 224, "w": 224}),
        (["n", None], 1, (1, 128), {"x_axis1": 128}),
    ],
)
def test_dynamic_axes_are_a_batch_first_and_made_up_elsewhere(shape, batch, sized, assumed):
    sizes = Skeleton(_softmax(shape)).sizes(batch)
    assert sizes.scope.values["y"].shape == sized
    assert sizes.assumed == assumed
    assert sizes.batch == (batch if shape[0] != 4 else None)


def test_axes_of_the_batchs_name_follow_it_wherever_they_stand():
    nodes = [helper.make_node("Transpose", ["state"], ["s"], perm=[1, 0])]
    nodes.append(helper.make_node("Concat", ["x", "s"], ["y"], axis=1))
    inputs = [_tensor("x", ["batch", 3]), _tensor("state", [2, "batch"])]
    sizes = Skeleton(_model(nodes, inputs, [_tensor("y", None)])).sizes(4)
    assert sizes.scope.values["y"].shape == (4, 5)
    assert sizes.assumed == {}


def test_shapes_are_followed_through_what_computes_them():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["first"]),
        helper.make_node("Unsqueeze", ["first", "zeros"], ["head"]),
        helper.make_node("Concat", ["head", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(0, np.int64), "zero"),
        numpy_helper.from_array(np.array([0], np.int64), "zeros"),
        numpy_helper.from_array(np.array([-1], np.int64), "rest"),
    ]
    model = _model(nodes, [_tensor("x", ["n", 3, 5])], [_tensor("y", None)], weights)
    assert Skeleton(model).sizes(2).scope.values["y"].shape == (2, 15)


def test_what_inference_does_not_know_is_taken_from_the_file():
    nodes = [
        helper.make_node("Novel", ["x"], ["v"], domain="com.microsoft"),
        helper.make_node("Novel", ["v"], ["y"], domain="com.microsoft"),
    ]
    told = [_tensor("v", ["n", 7])]
    model = _model(nodes, [_tensor("x", ["n", 3])], [_tensor("y", ["other", 3])], told=told)
    sizes = Skeleton(model).sizes(2)
    assert sizes.scope.values["v"].shape == (2, 7)
    assert sizes.unknown == ("y",)


def test_large_weights_are_left_out_and_the_model_stays_whole():
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = _model(nodes, [_tensor("x", ["n", 64])], [_tensor("y", None)], [weight])
    before = model.SerializeToString()
    skeleton = Skeleton(model)
    scope = skeleton.sizes(1).scope
    assert model.SerializeToString() == before
    assert scope.inputs == ("x",)
    assert scope.weights == {"w": Value((64, 64), "FLOAT", 32)}
    assert skeleton.sizes(8).scope.values["y"].shape == (8, 64)


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (TensorProto.FLOAT, 32),
        (TensorProto.DOUBLE, 64),
        (TensorProto.BFLOAT16, 16),
        (TensorProto.FLOAT8E4M3FN, 8),
        (TensorProto.INT4, 4),
        (TensorProto.BOOL, 8),
        (TensorProto.INT64, 64),
    ],
)
def test_elements_take_the_bits_of_their_type(kind, bits):
    model = _model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [_tensor("x", [1, 8], kind)],
        [_tensor("y", None, kind)],
    )
    value = Skeleton(model).sizes().scope.values["x"]
    assert value.size(4) == bits
    assert value.size(1) == (min(bits, 8) if "FLOAT" in value.dtype else bits)

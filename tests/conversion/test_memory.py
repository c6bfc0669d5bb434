"""Peak memory: counted by hand for small graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.conversion.memory import largest_batch, memory_estimate, peak_memory
from edge.conversion.sizing import Skeleton
from edge.conversion.source import read_model

KIB = 1024
"""Bytes of one float32 tensor of shape (1, 256)."""


def _tensor(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(nodes, outputs, weights=(), batch: int | str = 1) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [_tensor("x", batch, 256)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _live(model: onnx.ModelProto) -> list[float]:
    return [step.live_bytes / KIB for step in memory_estimate(model).steps]


def _softmax(read: str, written: str) -> onnx.NodeProto:
    """An operator that can not write over its input."""
    return helper.make_node("Softmax", [read], [written], f"to_{written}")


def test_a_value_lives_until_it_is_read_for_the_last_time():
    nodes = [_softmax("x", "a"), _softmax("a", "b"), _softmax("b", "c"), _softmax("c", "y")]
    # The caller's input, one value that is read and one that is written.
    assert _live(_model(nodes, ["y"])) == [2, 3, 3, 3]


def test_a_skip_connection_is_held_until_it_joins():
    add = helper.make_node("Concat", ["a", "c"], ["y"], axis=1)
    nodes = [_softmax("x", "a"), _softmax("a", "b"), _softmax("b", "c"), add]
    assert _live(_model(nodes, ["y"])) == [2, 3, 4, 5]


def test_outputs_live_to_the_end():
    nodes = [_softmax("x", "a"), _softmax("a", "b"), _softmax("b", "y")]
    assert _live(_model(nodes, ["a", "y"])) == [2, 3, 4]


def test_an_element_wise_operator_writes_over_an_input_that_nobody_needs():
    relu = helper.make_node("Relu", ["a"], ["b"])
    assert _live(_model([_softmax("x", "a"), relu, _softmax("b", "y")], ["y"])) == [2, 2, 3]


@pytest.mark.parametrize("kept", ["a", "x"])
def test_it_does_not_write_over_what_is_needed_or_the_callers(kept):
    relu = helper.make_node("Relu", [kept], ["b"])
    add = helper.make_node("Concat", ["a", "b"], ["y"], axis=1)
    assert _live(_model([_softmax("x", "a"), relu, add], ["y"])) == [2, 3, 5]


@pytest.mark.parametrize("op", ["Identity", "Flatten", "Squeeze", "Reshape"])
def test_a_view_takes_no_memory_and_keeps_what_it_shows_alive(op):
    shape = numpy_helper.from_array(np.array([256], np.int64), "shape")
    weights = [shape] if op == "Reshape" else []
    view = helper.make_node(op, ["a", *(["shape"] if weights else [])], ["v"])
    nodes = [_softmax("x", "a"), view, _softmax("x", "b"), _softmax("v", "y")]
    assert _live(_model(nodes, ["b", "y"], weights)) == [2, 2, 3, 4]


def test_weights_are_counted_once_and_narrower_in_other_precisions():
    weight = numpy_helper.from_array(np.ones((256, 256), np.float32), "w")
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], ["y"], [weight])
    estimate = memory_estimate(model)
    assert estimate.weight_bytes == 256 * KIB
    assert estimate.peak_bytes == (256 + 2) * KIB
    scope = Skeleton(model).sizes().scope
    assert peak_memory(scope, "int8").total * 4 == estimate.peak_bytes
    assert peak_memory(scope, "int4").weights * 8 == estimate.weight_bytes
    assert peak_memory(scope, "int4").activations * 2 == 2 * KIB


def test_constant_nodes_hold_weights_too():
    tensor = numpy_helper.from_array(np.ones((256, 256), np.float32), "c")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    assert memory_estimate(_model(nodes, ["y"])).weight_bytes == 256 * KIB


def test_what_lives_in_a_branch_adds_to_what_is_alive_around_it():
    def branch(name: str, length: int) -> onnx.GraphProto:
        nodes = [_softmax("a" if i == 0 else f"{name}{i}", f"{name}{i + 1}") for i in range(length)]
        out = helper.make_tensor_value_info(f"{name}{length}", TensorProto.FLOAT, [1, 256])
        return helper.make_graph(nodes, name, [], [out])

    condition = numpy_helper.from_array(np.array(True), "flag")
    choice = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branch("t", 2), else_branch=branch("e", 1)
    )
    # Input, captured value, output of the If, and two values in the larger branch.
    assert _live(_model([_softmax("x", "a"), choice], ["y"], [condition])) == [2, 5]


def test_a_recurrent_layer_needs_room_for_its_gates():
    steps, hidden = 16, 8
    weights = [
        numpy_helper.from_array(np.ones((1, 4 * hidden, 256), np.float32), "w"),
        numpy_helper.from_array(np.ones((1, 4 * hidden, hidden), np.float32), "r"),
    ]
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=hidden)
    graph = helper.make_graph(
        [node], "lstm", [_tensor("x", steps, 1, 256)], [_tensor("y", steps, 1, 1, hidden)], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (step,) = memory_estimate(model).steps
    assert step.live_bytes == 4 * steps * (256 + 4 * hidden + hidden)


def test_the_largest_batch_is_the_last_power_of_two_that_fits():
    model = _model([_softmax("x", "a"), _softmax("a", "y")], ["y"], batch="n")
    skeleton = Skeleton(model)
    for room, batch in ((3 * KIB - 1, 0), (3 * KIB, 1), (3 * 15 * KIB, 8), (3 * 16 * KIB, 16)):
        assert largest_batch(skeleton, "fp32", room) == batch
    assert largest_batch(skeleton, "fp16", 3 * 16 * KIB) == 32


def test_squeezenet_peaks_where_its_first_convolution_meets_its_pooling(real_data):
    estimate = memory_estimate(read_model(real_data / "models" / "squeezenet1.1.onnx"))
    picture, first, pooled = 3 * 224 * 224, 64 * 111 * 111, 64 * 55 * 55
    assert estimate.peak_bytes - estimate.weight_bytes == 4 * (picture + first + pooled)
    peak = max(estimate.steps, key=lambda step: step.live_bytes)
    assert peak.op == "MaxPool"

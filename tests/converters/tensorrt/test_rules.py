"""The checker finds each rule that a graph breaks, and names the node."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from converters._tensorrt import rules
from converters._tensorrt.network import network_of
from converters._tensorrt.placement import place
from converters._tensorrt.writing import write


@pytest.fixture
def graph(rich, pictures):  # type: ignore[no-untyped-def]
    network = network_of(rich, pictures[0])
    placement = place(network)
    return write(rich, placement, dict.fromkeys(placement.tensors(network), 4.0), "int8")


def _constant(graph: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    tensor = next(t for t in graph.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _node(graph: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.graph.node if node.name == name)


def _pair(graph: onnx.ModelProto, source: str, before: str) -> str:
    """Put a new pair on ``source``, before the node ``before``."""
    nodes = list(graph.graph.node)
    place = next(index for index, node in enumerate(nodes) if node.name == before)
    inputs = ["pool/scale", "pool/zero"]
    new = [
        helper.make_node("QuantizeLinear", [source, *inputs], [f"{source}/q"], f"{source}/Q"),
        helper.make_node("DequantizeLinear", [f"{source}/q", *inputs], [f"{source}/d"]),
    ]
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes[:place], *new, *nodes[place:]])
    return f"{source}/d"


def _asymmetric(graph: onnx.ModelProto) -> None:
    _constant(graph, "pool/zero", np.array(3, np.int8))


def _unsigned(graph: onnx.ModelProto) -> None:
    _constant(graph, "pool/zero", np.array(0, np.uint8))


def _no_scale(graph: onnx.ModelProto) -> None:
    _constant(graph, "pool/scale", np.array(0, np.float32))


def _scale_per_channel(graph: onnx.ModelProto) -> None:
    _constant(graph, "pool/scale", np.ones(32, np.float32))
    _constant(graph, "pool/zero", np.zeros(32, np.int8))


def _weights_along_the_wrong_axis(graph: onnx.ModelProto) -> None:
    _constant(graph, "w_first/scale", np.ones(16, np.float32))
    _constant(graph, "w_first/zero", np.zeros(16, np.int8))
    _node(graph, "w_first/DequantizeLinear").attribute[0].i = 1


def _one_operand(graph: onnx.ModelProto) -> None:
    _node(graph, "first").input[0] = "stem_relu"


def _bias(graph: onnx.ModelProto) -> None:
    _node(graph, "first").input[2] = _pair(graph, "b_first", "first")


def _activation(graph: onnx.ModelProto) -> None:
    name = _pair(graph, "up", "gate")
    _node(graph, "gate").input[0] = name


def _small_layer(graph: onnx.ModelProto) -> None:
    name = _pair(graph, "deep", "narrow")
    weights = _pair(graph, "w_narrow", "narrow")
    _node(graph, "narrow").input[:] = [name, weights]


def _both_ends_of_an_add(graph: onnx.ModelProto) -> None:
    name = _pair(graph, "second", "sum")
    _node(graph, "sum").input[0] = name


def _the_wrong_end_of_an_add(graph: onnx.ModelProto) -> None:
    name = _pair(graph, "second", "sum")
    _node(graph, "sum").input[:] = [name, "short"]


def _part_of_a_concat(graph: onnx.ModelProto) -> None:
    name = _pair(graph, "left", "both")
    _node(graph, "both").input[0] = name


def _an_output(graph: onnx.ModelProto) -> None:
    last = _node(graph, "weights")
    last.output[0] = "weights/float"
    _pair(graph, "weights/float", "weights")
    nodes = list(graph.graph.node)
    softmax = nodes.index(_node(graph, "weights"))
    nodes.append(nodes.pop(softmax - 2))
    nodes.append(nodes.pop(softmax - 2))
    nodes[-1].name, nodes[-1].output[0] = "last", "weights"
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _alone(graph: onnx.ModelProto) -> None:
    _node(graph, "gate").input[0] = "pool/quantized"


BREAKS = {
    _asymmetric: ("zero point is not 0", "pool/QuantizeLinear"),
    _unsigned: ("not int8", "pool/QuantizeLinear"),
    _no_scale: ("positive number", "pool/QuantizeLinear"),
    _scale_per_channel: ("an activation has a scale per channel", "pool/QuantizeLinear"),
    _weights_along_the_wrong_axis: ("no scale per output channel", "first"),
    _one_operand: ("one operand", "first"),
    _bias: ("a bias is quantized", "first"),
    _activation: ("an input of Sigmoid", "gate"),
    _small_layer: ("left alone is quantized: 8 channels", "narrow"),
    _both_ends_of_an_add: ("both inputs of an Add", "sum"),
    _the_wrong_end_of_an_add: ("from a convolution to its Add", "sum"),
    _part_of_a_concat: ("inputs of a Concat", "both"),
    _an_output: ("an output of the model is quantized", "last"),
    _alone: ("not followed by DequantizeLinear alone", "pool/QuantizeLinear"),
}


def test_what_is_written_keeps_to_the_rules(graph, pictures):
    assert rules.check(graph, pictures[0]) == []


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda each: each.__name__)
def test_a_broken_rule_is_found_with_its_node(graph, pictures, break_it):
    break_it(graph)
    message, node = BREAKS[break_it]
    found = [each for each in rules.check(graph, pictures[0]) if message in each.message]
    assert [each.severity for each in found] == ["error"]
    assert node in found[0].nodes


def test_a_pair_with_two_scales_is_found(graph, pictures):
    scale = numpy_helper.from_array(np.array(9, np.float32), "other")
    graph.graph.initializer.append(scale)
    _node(graph, "pool/DequantizeLinear").input[1] = "other"
    assert "a pair has two scales" in [each.message for each in rules.check(graph, pictures[0])]


def test_a_scale_that_is_computed_is_found(graph, pictures):
    graph.graph.initializer.append(numpy_helper.from_array(np.array(9, np.float32), "base"))
    graph.graph.node.insert(0, helper.make_node("Abs", ["base"], ["computed"], "computed"))
    for name in ("pool/QuantizeLinear", "pool/DequantizeLinear"):
        _node(graph, name).input[1] = "computed"
    assert "the scale is not a constant" in [each.message for each in rules.check(graph)]


def test_a_dequantizer_of_nothing_quantized_is_found(graph, pictures):
    graph.graph.node.insert(0, helper.make_node("Abs", ["w_first/quantized"], ["int"], "abs"))
    _node(graph, "w_first/DequantizeLinear").input[0] = "int"
    found = [each.message for each in rules.check(graph, pictures[0])]
    assert "DequantizeLinear follows neither QuantizeLinear nor a constant" in found

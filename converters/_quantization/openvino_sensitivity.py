"""Which operators of an INT8 IR bring in how much of its error."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from converters._quantization.sensitivity import ELEMENT_COST, Answers, rank
from edge.core.contracts import Sensitivity
from edge.core.lazy import require

if TYPE_CHECKING:
    from edge.core.tensor import Feeds

OvModel = Any
OvNode = Any

WEIGHTED = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}
QUANTIZER = "FakeQuantize"
CARRIERS = {
    *("Broadcast", "Concat", "DepthToSpace", "MaxPool", "Pad", "Reshape", "Slice", "Split"),
    *("Squeeze", "StridedSlice", "Tile", "Transpose", "Unsqueeze", "VariadicSplit"),
}
"""They hand values on. NNCF puts the quantizer of what follows before them, so that leaving them
in float alone changes nothing: they go with what follows."""


def sensitivities(path: Path, source: Path, samples: list[Feeds]) -> tuple[Sensitivity, ...]:
    """Rank the quantized operators of the IR at ``path``.

    Args:
        source: The float model that it was made from, as ONNX.
    """
    openvino = require("openvino", extra="convert")
    core = openvino.Core()
    units = _units(core.read_model(path))

    def run(quantized: set[str]) -> Answers:
        model = core.read_model(path)
        in_float = {name for unit in units if unit not in quantized for name in units[unit].nodes}
        _restore(model, openvino.convert_model(source), in_float)
        return answers(model, samples)

    ranked = rank({name: unit.cost for name, unit in units.items()}, run)
    return tuple(
        msgspec.structs.replace(
            each, nodes=tuple(node for name in each.nodes for node in units[name].nodes)
        )
        for each in ranked
    )


def answers(model: OvModel, samples: list[Feeds]) -> Answers:
    """What ``model`` answers on the CPU, in true FP32 where it is float."""
    openvino = require("openvino", extra="convert")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.get_any_name() for output in compiled.outputs]
    request = compiled.create_infer_request()
    return [
        dict(zip(names, (v.copy() for v in request.infer(dict(f)).values()), strict=True))
        for f in samples
    ]


class _Unit(NamedTuple):
    """An operator, with those that hand it its quantized values."""

    nodes: list[str]
    cost: float


def _units(model: OvModel) -> dict[str, _Unit]:
    """Quantized operators by the name of the one that computes, in the order of execution."""
    units: dict[str, _Unit] = {}
    for node in model.get_ordered_ops():
        inputs = range(node.get_input_size())
        if node.get_type_name() in (QUANTIZER, "Result") or not any(
            _is_quantized(node.input_value(i)) for i in inputs
        ):
            continue
        target = _target(node)
        name = target.get_friendly_name()
        unit = units.setdefault(name, _Unit([name], _cost(target)))
        if target is not node and node.get_friendly_name() != name:
            unit.nodes.append(node.get_friendly_name())
    return units


def _target(node: OvNode) -> OvNode:
    """The operator that computes with what ``node`` hands on; itself if there is none."""
    found = node
    while found.get_type_name() in CARRIERS:
        readers = list(found.output(0).get_target_inputs())
        if not readers or readers[0].get_node().get_type_name() == "Result":
            return node
        found = readers[0].get_node()
    return found if found.get_type_name() != QUANTIZER else node


def _cost(node: OvNode) -> float:
    elements: int = prod(max(1, dim.get_max_length()) for dim in node.output(0).get_partial_shape())
    products = 0
    if node.get_type_name() in WEIGHTED:
        weights = node.input(1).get_partial_shape()
        if weights.is_static:
            channels = {"GroupConvolution": 2, "MatMul": 0}.get(node.get_type_name(), 1)
            out = prod(weights.to_shape()[:channels]) if channels else _width(node)
            products = elements * int(prod(weights.to_shape())) // max(1, out)
    return 2.0 * products + ELEMENT_COST * elements


def _width(node: OvNode) -> int:
    """Size of the last axis of a node's output; 1 where it is not fixed."""
    last = list(node.output(0).get_partial_shape())[-1:]
    return int(last[0].get_length()) if last and last[0].is_static else 1


def _is_quantized(value: Any) -> bool:
    """Whether an activation, not a weight, comes from a quantizer."""
    node = value.get_node()
    return node.get_type_name() == QUANTIZER and not _is_constant(node)


def _is_constant(node: OvNode, depth: int = 0) -> bool:
    if node.get_type_name() == "Constant":
        return True
    inputs = range(node.get_input_size())
    return (
        depth < 6
        and bool(inputs)
        and all(_is_constant(node.input_value(i).get_node(), depth + 1) for i in inputs)
    )


def _restore(model: OvModel, original: OvModel, names: set[str]) -> None:
    """Compute ``names`` in float, and take all biases from ``original``.

    Biases were shifted for the errors of all layers before them: without those they would be wrong
    by more than what is measured.
    """
    floats = {node.get_friendly_name(): node for node in original.get_ops()}
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        twin = floats.get(name)
        is_bias = node.get_type_name() == "Add"
        for index in range(node.get_input_size()):
            value = node.input_value(index)
            if name in names and _is_quantized(value):
                node.input(index).replace_source_output(value.get_node().input_value(0))
            elif twin is not None and (is_bias or name in names) and _is_constant(value.get_node()):
                _take(node.input(index), twin.input_value(index).get_node())


def _take(target: Any, constant: OvNode) -> None:
    """Give an input the value of another model's constant."""
    if constant.get_type_name() == "Constant" and list(target.get_shape()) == list(
        constant.output(0).get_shape()
    ):
        copied = require("openvino", extra="convert").op.Constant(constant.data.copy())
        target.replace_source_output(copied.output(0))

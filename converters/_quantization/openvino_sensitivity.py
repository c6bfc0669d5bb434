"""Which operators of an INT8 IR bring in how much of its error."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters._quantization.sensitivity import ELEMENT_COST, Answers, rank
from edge.core.contracts import Sensitivity
from edge.core.lazy import require

if TYPE_CHECKING:
    from edge.core.tensor import Feeds

OvModel = Any
OvNode = Any

WEIGHTED = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}
QUANTIZER = "FakeQuantize"


def sensitivities(path: Path, source: Path, samples: list[Feeds]) -> tuple[Sensitivity, ...]:
    """Rank the quantized operators of the IR at ``path``.

    Args:
        source: The float model that it was made from, as ONNX.
    """
    openvino = require("openvino", extra="convert")
    core = openvino.Core()
    costs = _costs(core.read_model(path))

    def run(quantized: set[str]) -> Answers:
        model = core.read_model(path)
        _restore(model, openvino.convert_model(source), set(costs) - quantized)
        return answers(model, samples)

    return rank(costs, run)


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


def _costs(model: OvModel) -> dict[str, float]:
    return {
        node.get_friendly_name(): _cost(node)
        for node in model.get_ordered_ops()
        if node.get_type_name() not in (QUANTIZER, "Result")
        and any(_is_quantized(node.input_value(i)) for i in range(node.get_input_size()))
    }


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

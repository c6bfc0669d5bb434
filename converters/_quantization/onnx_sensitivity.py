"""Which operators of an INT8 graph of QuantizeLinear pairs bring in how much of its error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING

from converters._quantization.sensitivity import ELEMENT_COST, Answers, rank
from converters._quantization.statistics import open_session
from edge.core.contracts import Sensitivity
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge.core.tensor import Array, Feeds

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def sensitivities(model: ModelProto, samples: list[Feeds]) -> tuple[Sensitivity, ...]:
    """Rank the quantized operators of ``model``. Weights stay rounded in all runs."""
    costs = _costs(model, samples[0])

    def run(quantized: set[str]) -> Answers:
        return answers(_partly(model, set(costs) - quantized), samples)

    return rank(costs, run)


def answers(
    model: ModelProto, samples: Iterable[Feeds], entries: Mapping[str, str] | None = None
) -> Answers:
    """What ``model`` answers in ONNX Runtime on the CPU, with ``entries`` in its options."""
    session = open_session(model.SerializeToString(), entries)
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(f)), strict=True)) for f in samples]


def _quantized_values(model: ModelProto) -> dict[str, NodeProto]:
    """Activation that comes out of a pair -> the node that quantizes it."""
    producers = {name: node for node in model.graph.node for name in node.output}
    return {
        node.output[0]: producers[node.input[0]]
        for node in model.graph.node
        if node.op_type == DEQUANTIZE
        and node.input[0] in producers
        and producers[node.input[0]].op_type == QUANTIZE
    }


def _partly(model: ModelProto, in_float: set[str]) -> ModelProto:
    """The model with the operators ``in_float`` reading and giving values that are not rounded.

    Values are clipped to their range all the same: a Relu or Clip before a pair may be left to it.
    """
    onnx = require("onnx", extra="convert")
    copy = type(model)()
    copy.CopyFrom(model)
    pairs = _quantized_values(copy)
    makers = {name: node.name for node in copy.graph.node for name in node.output}
    used = {name for n in copy.graph.node if n.name in in_float for name in n.input}
    outputs = {
        output.name
        for output in copy.graph.output
        if output.name in pairs and makers.get(pairs[output.name].input[0]) in in_float
    }
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in copy.graph.initializer}
    for node in copy.graph.node:
        if node.name in in_float:
            for index, name in enumerate(node.input):
                node.input[index] = _clipped(name) if name in pairs else name
    order = list(copy.graph.node)
    del copy.graph.node[:]
    for node in order:
        result = node.output[0] if node.op_type == DEQUANTIZE else ""
        if result in pairs and result in used | outputs:
            quantizer = pairs[result]
            bounds = [f"{result}/{end}" for end in ("low", "high")]
            values = _range(*(constants[name] for name in quantizer.input[1:3]))
            copy.graph.initializer.extend(
                onnx.numpy_helper.from_array(v, n) for v, n in zip(values, bounds, strict=True)
            )
            target = result if result in outputs else _clipped(result)
            clip = onnx.helper.make_node("Clip", [quantizer.input[0], *bounds], [target])
            copy.graph.node.append(clip)
            if result in outputs:
                copy.graph.node.append(
                    onnx.helper.make_node("Identity", [target], [_clipped(result)])
                )
                continue
        copy.graph.node.append(node)
    return copy


def _clipped(name: str) -> str:
    return f"{name}/clipped"


def _range(scale: Array, zero: Array) -> tuple[Array, Array]:
    """The least and greatest value that a quantizer can give."""
    np = require("numpy", extra="convert")
    limits = np.iinfo(zero.dtype)
    low, high = ((limit - float(zero)) * float(scale) for limit in (limits.min, limits.max))
    return np.array(low, np.float32), np.array(high, np.float32)


def _costs(model: ModelProto, feeds: Feeds) -> dict[str, float]:
    values = _quantized_values(model)
    sizes = _sizes(model, feeds)
    weights = _weights(model)
    return {
        node.name: _cost(node, sizes, weights)
        for node in model.graph.node
        if node.op_type not in (QUANTIZE, DEQUANTIZE) and any(name in values for name in node.input)
    }


def _cost(
    node: NodeProto, sizes: Mapping[str, int], weights: Mapping[str, tuple[int, ...]]
) -> float:
    elements = sizes.get(node.output[0], 1)
    dims = weights.get(node.input[1]) if len(node.input) > 1 else None
    products = 0
    if dims and node.op_type == "Conv":
        products = elements * prod(dims[1:])
    elif dims and node.op_type in ("Gemm", "MatMul"):
        products = elements * dims[-2]
    return 2.0 * products + ELEMENT_COST * elements


def _sizes(model: ModelProto, feeds: Feeds) -> dict[str, int]:
    """Elements of each value for one sample, as far as they can be inferred."""
    onnx = require("onnx", extra="convert")
    copy = type(model)()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for dim, size in zip(
            value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=False
        ):
            dim.dim_value = size
    del copy.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    return {
        value.name: prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }


def _weights(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Value that a constant is dequantized to -> its shape."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {
        node.output[0]: dims[node.input[0]]
        for node in model.graph.node
        if node.op_type == DEQUANTIZE and node.input[0] in dims
    }

"""Proves on a finished graph that it keeps to TensorRT's rules; findings name the nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from converters._tensorrt.network import DEQUANTIZE, QUANTIZE, Network, network_of
from converters._tensorrt.placement import CONVOLUTIONS, PRODUCTS, obstacle, weight_axis
from converters._tensorrt.weights import INT4
from converters._tensorrt.writing import FORMATS
from edge.core.contracts import Finding
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge.core.tensor import Array, Feeds

ELEMENTS = frozenset(form.element for form in FORMATS.values())
LAYERS = (*CONVOLUTIONS, *PRODUCTS)

Broken = Iterator[tuple[str, str]]
"""What is wrong, and the node it is wrong with."""


def check(model: ModelProto, feeds: Feeds | None = None) -> list[Finding]:
    """One error for each rule that is broken; empty for a graph that keeps to all of them.

    Args:
        feeds: A sample, where the sizes of layers depend on dynamic axes.
    """
    network = network_of(model, feeds)
    found: dict[str, list[str]] = {}
    for rule in RULES:
        for message, node in rule(network):
            found.setdefault(message, []).append(node)
    return [Finding("error", message, nodes=tuple(nodes)) for message, nodes in found.items()]


def _pairs_are_whole(network: Network) -> Broken:
    for node in network.nodes:
        if node.op_type == QUANTIZE:
            readers = network.readers.get(node.output[0], [])
            if not readers or any(reader.op_type != DEQUANTIZE for reader in readers):
                yield "QuantizeLinear is not followed by DequantizeLinear alone", node.name
        if node.op_type == DEQUANTIZE:
            producer = network.producers.get(node.input[0])
            is_pair = producer is not None and producer.op_type == QUANTIZE
            if not is_pair and node.input[0] not in network.constants:
                yield "DequantizeLinear follows neither QuantizeLinear nor a constant", node.name
            if is_pair and producer is not None and producer.input[1] != node.input[1]:
                yield "a pair has two scales", node.name


def _is_symmetric(network: Network) -> Broken:
    to_array = require("onnx", extra="convert").numpy_helper.to_array
    for node in _quantizers(network):
        if _is_weight_only(node, network):
            continue  # without a zero point it is 0
        zero = network.constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.data_type not in ELEMENTS:
            yield "the quantized type is not int8 or float8 (E4M3)", node.name
        elif to_array(zero).astype("float32").any():
            yield "the zero point is not 0", node.name


def _scales_are_sound(network: Network) -> Broken:
    np = require("numpy", extra="convert")
    for node in _quantizers(network):
        scale = _scale(node, network)
        if scale is None:
            yield "the scale is not a constant", node.name
        elif not (np.isfinite(scale.astype("float32")).all() and (scale > 0).all()):
            yield "a scale is not a positive number", node.name


def _activations_have_one_scale(network: Network) -> Broken:
    for node in network.nodes:
        if node.op_type == QUANTIZE and node.input[0] not in network.constants:
            scale = _scale(node, network)
            if scale is not None and scale.size != 1:
                yield "an activation has a scale per channel", node.name


def _weights_have_a_scale_per_channel(network: Network) -> Broken:
    for node in network.nodes:
        dequantizer = _dequantizer(node.input[1], network) if node.op_type in LAYERS else None
        dims = network.weight_shape(node.input[1]) if dequantizer is not None else None
        if dequantizer is None or dims is None or _is_weight_only(dequantizer, network):
            continue
        axis = weight_axis(node, len(dims))
        given = next((a.i for a in dequantizer.attribute if a.name == "axis"), 1)
        scale = _scale(dequantizer, network)
        if scale is None or scale.shape != (dims[axis],) or given % len(dims) != axis:
            yield f"the weights of {node.op_type} have no scale per output channel", node.name


def _both_operands_or_none(network: Network) -> Broken:
    for node in network.nodes:
        if node.op_type in LAYERS:
            first, second = (_dequantizer(name, network) for name in node.input[:2])
            if second is not None and _is_weight_only(second, network):
                if first is not None:
                    yield "an activation is quantized beside weights of int4", node.name
                continue
            if (first is None) != (second is None):
                yield "one operand is quantized and the other is not", node.name


def _only_where_it_pays(network: Network) -> Broken:
    for node in network.nodes:
        quantized = [index for index, n in enumerate(node.input) if _dequantizer(n, network)]
        if not quantized or node.op_type == QUANTIZE:
            continue
        if node.op_type in PRODUCTS and quantized == [1]:
            continue  # weights alone: _both_operands_or_none tells whether they may
        if node.op_type in LAYERS:
            if max(quantized) > 1:
                yield "a bias is quantized", node.name
            reason = obstacle(_with_source(node, network), network)
            if reason:
                yield f"a layer that should be left alone is quantized: {reason}", node.name
        elif node.op_type == "Concat":
            scales = {float(_pair_scale(node.input[index], network)) for index in quantized}
            if len(scales) > 1 or len(quantized) < len(node.input):
                yield "the inputs of a Concat have several scales", node.name
        elif node.op_type != "Add":
            yield f"an input of {node.op_type} is quantized", node.name


def _residual_adds(network: Network) -> Broken:
    for node in network.nodes:
        quantized = [name for name in node.input if _dequantizer(name, network) is not None]
        if node.op_type != "Add" or not quantized:
            continue
        if len(quantized) > 1:
            yield "both inputs of an Add are quantized", node.name
        for name in quantized:
            source = _source(name, network)
            producer = network.producers.get(source)
            is_alone = len(network.readers.get(source, ())) == 1
            other = next((each for each in node.input if each != name), name)
            main = network.producers.get(other)
            if main is None or main.op_type not in CONVOLUTIONS:
                yield "an Add is quantized that follows no convolution", node.name
            elif producer is not None and producer.op_type in CONVOLUTIONS and is_alone:
                order = [each.name for each in network.nodes]
                if order.index(producer.name) > order.index(main.name):
                    yield "the edge from a convolution to its Add is quantized", node.name


def _blocks_are_whole(network: Network) -> Broken:
    for node in network.nodes:
        if node.op_type != DEQUANTIZE or not _is_weight_only(node, network):
            continue
        numbers = {item.name: item.i for item in node.attribute}
        weights, scale = (network.constants[name].dims for name in node.input[:2])
        axis, block = numbers.get("axis", 1), numbers.get("block_size", 0)
        whole = [dim // block if i == axis and block else dim for i, dim in enumerate(weights)]
        if len(weights) != 2 or not block or weights[axis] % block or list(scale) != whole:
            yield "weights of int4 are not a matrix in whole blocks", node.name


def _outputs_are_float(network: Network) -> Broken:
    for node in network.nodes:
        if node.op_type in (QUANTIZE, DEQUANTIZE) and node.output[0] in network.outputs:
            yield "an output of the model is quantized", node.name


RULES: tuple[Callable[[Network], Broken], ...] = (
    _pairs_are_whole,
    _is_symmetric,
    _scales_are_sound,
    _activations_have_one_scale,
    _weights_have_a_scale_per_channel,
    _both_operands_or_none,
    _only_where_it_pays,
    _residual_adds,
    _blocks_are_whole,
    _outputs_are_float,
)


def _quantizers(network: Network) -> Iterator[NodeProto]:
    return (node for node in network.nodes if node.op_type in (QUANTIZE, DEQUANTIZE))


def _is_weight_only(node: NodeProto, network: Network) -> bool:
    tensor = network.constants.get(node.input[0])
    return tensor is not None and tensor.data_type == INT4


def _dequantizer(name: str, network: Network) -> NodeProto | None:
    node = network.producers.get(name)
    return node if node is not None and node.op_type == DEQUANTIZE else None


def _source(name: str, network: Network) -> str:
    """The tensor that a pair rounds."""
    node = network.producers.get(name)
    while node is not None and node.op_type in (QUANTIZE, DEQUANTIZE):
        name = node.input[0]
        node = network.producers.get(name)
    return name


def _with_source(node: NodeProto, network: Network) -> NodeProto:
    """The layer as it was before its input went through a pair."""
    copy = type(node)()
    copy.CopyFrom(node)
    copy.input[0] = _source(node.input[0], network)
    return copy


def _pair_scale(name: str, network: Network) -> Array:
    scale = _scale(network.producers[name], network)
    assert scale is not None
    return scale


def _scale(node: NodeProto, network: Network) -> Array | None:
    tensor = network.constants.get(node.input[1])
    if tensor is None:
        return None
    array: Array = require("onnx", extra="convert").numpy_helper.to_array(tensor)
    return array

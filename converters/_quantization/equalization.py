"""Evens out the channels of an FP32 ONNX graph, so that one scale per tensor fits them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge.core.tensor import Array

SCALABLE = ("Relu", "Clip", "LeakyRelu")
FLOOR = 0.01
"""Channels that stay below this share of the largest one are treated as if they reached it."""


class Pair(NamedTuple):
    """A convolution, and the depthwise one that reads its activation and nothing else does."""

    first: NodeProto
    second: NodeProto

    @property
    def between(self) -> str:
        """The tensor whose channels can be scaled."""
        return str(self.second.input[0])


def depthwise_pairs(model: ModelProto) -> list[Pair]:
    """Where channels can be scaled at no cost: the depthwise weights have a scale each anyway."""
    return list(_pairs(model))


def _pairs(model: ModelProto) -> Iterator[Pair]:
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    uses = _use_counts(model)
    for node in model.graph.node:
        if node.op_type != "Conv" or not _is_depthwise(node, weights):
            continue
        tensor, maker = node.input[0], makers.get(node.input[0])
        while maker is not None and uses[tensor] == 1 and maker.op_type in SCALABLE:
            tensor, maker = maker.input[0], makers.get(maker.input[0])
        if maker is None or uses[tensor] != 1 or maker.op_type != "Conv":
            continue
        owned = [name for part in (maker, node) for name in part.input[1:]]
        if len(maker.input) == 3 and all(n in weights and uses[n] == 1 for n in owned):
            yield Pair(maker, node)


def equalize(model: ModelProto, peaks: dict[str, Array]) -> None:
    """Scale each channel between the convolutions of a pair up to the tensor's own peak.

    Equal to a scale per channel of the activation, which ONNX Runtime's kernels do not have. A
    ``Clip`` then acts at the peak that the channel had in ``peaks``, as quantization would.

    Args:
        peaks: Tensor -> largest absolute value per channel, from real samples.
    """
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def rescale(name: str, factors: Array) -> None:
        values = onnx.numpy_helper.to_array(weights[name])
        factors = factors.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
        weights[name].CopyFrom(onnx.numpy_helper.from_array(values * factors, name))

    for pair in depthwise_pairs(model):
        peak = peaks.get(pair.between)
        if peak is None or not peak.max() > 0:
            continue
        factors = peak.max() / np.maximum(peak, FLOOR * peak.max())
        rescale(pair.first.input[1], factors)
        rescale(pair.first.input[2], factors)
        rescale(pair.second.input[1], 1 / factors)


def _use_counts(model: ModelProto) -> dict[str, int]:
    """Tensor -> how often it is read, inside subgraphs (all of them, at once) and as an output."""
    counts: dict[str, int] = {output.name: 1 for output in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            counts[name] = counts.get(name, 0) + 1
    for value in _names_in_subgraphs(model):
        counts[value] = counts.get(value, 0) + 1
    return counts


def _names_in_subgraphs(model: ModelProto) -> Iterator[str]:
    graphs = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            yield from node.input
            graphs.extend(a.g for a in node.attribute if a.HasField("g"))
        yield from (output.name for output in graph.output)


def _is_depthwise(node: NodeProto, weights: dict[str, object]) -> bool:
    weight = weights.get(node.input[1])
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if weight is None or group == 1:
        return False
    dims: list[int] = list(weight.dims)  # type: ignore[attr-defined]
    return dims[0] == group and dims[1] == 1

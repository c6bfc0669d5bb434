"""Puts back the mean that rounding the weights takes from each output channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge.core.tensor import Array

WEIGHTED = ("Conv", "Gemm")


def correctable(model: ModelProto) -> dict[str, NodeProto]:
    """Convolutions and Gemms with constant weights and a bias that no other node reads, by name."""
    constants = {tensor.name for tensor in model.graph.initializer}
    used = [name for node in model.graph.node for name in node.input]
    return {
        node.name: node
        for node in model.graph.node
        if node.op_type in WEIGHTED
        and len(node.input) == 3
        and node.input[1] in constants
        and node.input[2] in constants
        and used.count(node.input[2]) == 1
    }


def correct_biases(rounded: ModelProto, original: ModelProto, means: dict[str, Array]) -> int:
    """Shift the biases of ``rounded`` by what its weights make of the mean input.

    Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction".

    Args:
        original: The same graph before its weights were rounded.
        means: Input tensor -> mean per channel.
    Returns:
        How many layers were corrected.
    """
    onnx = require("onnx", extra="convert")
    before = {tensor.name: tensor for tensor in original.graph.initializer}
    after = {tensor.name: tensor for tensor in rounded.graph.initializer}
    to_array = onnx.numpy_helper.to_array
    nodes = [node for node in correctable(rounded).values() if node.input[0] in means]
    for node in nodes:
        _, weight, bias = node.input[:3]
        lost = to_array(before[weight]).astype("float64") - to_array(after[weight])
        values = to_array(after[bias])
        shift = _response(node, lost, means[node.input[0]]) / _beta(node)
        if shift.shape == values.shape:
            moved = (values + shift).astype(values.dtype)
            after[bias].CopyFrom(onnx.numpy_helper.from_array(moved, bias))
    return len(nodes)


def _response(node: NodeProto, weights: Array, mean: Array) -> Any:
    """Mean output per channel of a layer with ``weights`` for inputs of ``mean``, borders aside."""
    np = require("numpy", extra="convert")
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Gemm":
        alpha = attributes["alpha"].f if "alpha" in attributes else 1.0
        is_transposed = "transB" in attributes and attributes["transB"].i == 1
        return alpha * (weights @ mean if is_transposed else mean @ weights)
    groups = attributes["group"].i if "group" in attributes else 1
    kernels = weights.reshape(*weights.shape[:2], -1).sum(axis=2)
    by_group = kernels.reshape(groups, -1, kernels.shape[1])
    return np.einsum("goi,gi->go", by_group, mean.reshape(groups, -1)).reshape(-1)


def _beta(node: NodeProto) -> float:
    """What a Gemm multiplies its bias with."""
    return next((a.f for a in node.attribute if a.name == "beta" and a.f != 0), 1.0)

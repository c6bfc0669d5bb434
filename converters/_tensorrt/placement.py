"""Where Q/DQ pairs belong for TensorRT, and which layers are better left alone.

The rules, and why: explicit quantization in NVIDIA's TensorRT documentation (Working with Quantized
Types); pairs between a convolution and the Add it feeds break their fusion
(https://github.com/NVIDIA/TensorRT/issues/4365); small layers do not pay
(https://github.com/NVIDIA/Model-Optimizer, ``exclude_small`` of its ONNX quantizer).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from converters._tensorrt.network import Network, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

LEAST_CHANNELS = 16
"""Tensor cores work on 16 and more: below, INT8 is padded and no faster than FP16."""

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")


class Placement(msgspec.Struct, frozen=True):
    """What is quantized.

    ``layers`` are names of nodes whose first input and weights are; ``skips`` are, by name of an
    Add, the input that is; ``left_alone`` says by name of a layer why it is not.
    """

    layers: frozenset[str]
    skips: dict[str, str]
    left_alone: dict[str, str]

    def tensors(self, network: Network) -> list[str]:
        """The activations that need a scale, in the order they are read."""
        found: dict[str, None] = {}
        for node in network.nodes:
            if node.name in self.layers:
                found[node.input[0]] = None
            if node.name in self.skips:
                found[self.skips[node.name]] = None
        return list(found)


def place(network: Network, exclude: Collection[str] = ()) -> Placement:
    """Decide for every layer; ``exclude`` names those that stay in float."""
    left_alone: dict[str, str] = {}
    layers: set[str] = set()
    for node in network.nodes:
        if node.op_type not in (*CONVOLUTIONS, *PRODUCTS):
            continue
        reason = "asked for" if node.name in exclude else obstacle(node, network)
        if reason:
            left_alone[node.name] = reason
        else:
            layers.add(node.name)
    return Placement(frozenset(layers), _skips(network, layers, exclude), left_alone)


def obstacle(node: NodeProto, network: Network) -> str:
    """Why INT8 does not pay or does not work for a layer; empty if it does."""
    if not network.is_activation(node.input[0]):
        return "it reads a constant"
    weights = network.weight_shape(node.input[1])
    if weights is None:
        return "both operands are activations"
    if node.op_type in CONVOLUTIONS:
        return _convolution_obstacle(node, weights)
    return _product_obstacle(node, weights, network)


def weight_axis(node: NodeProto, rank: int) -> int:
    """The axis of the weights that has a scale for each index: that of output channels."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, rank - 1)


def _convolution_obstacle(node: NodeProto, weights: tuple[int, ...]) -> str:
    groups = int(attribute(node, "group", 1))
    if groups > 1:
        if node.op_type == "ConvTranspose":
            return "a grouped transposed convolution has no scale per output channel"
        if weights[0] % 8 or max(weights[2:]) < 3:
            return f"grouped, {weights[0]} channels out, kernel {max(weights[2:])}"
        return ""
    if min(weights[:2]) < LEAST_CHANNELS:
        return f"{min(weights[:2])} channels"
    return ""


def _product_obstacle(node: NodeProto, weights: tuple[int, ...], network: Network) -> str:
    if len(weights) != 2:
        return f"weights of rank {len(weights)}"
    scaled = any(attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta"))
    if attribute(node, "transA", 0) or scaled:
        return "a Gemm that transposes its input or scales"
    if min(weights) < LEAST_CHANNELS:
        return f"{min(weights)} rows or columns of weights"
    if network.rows(node.input[0]) == 1:
        return "a matrix times one vector"
    return ""


def _skips(network: Network, layers: set[str], exclude: Collection[str]) -> dict[str, str]:
    """The skip branch of every residual Add that can be fused with the convolution before it."""
    order = {name: index for index, node in enumerate(network.nodes) for name in node.output}

    def is_fused(name: str) -> bool:
        producer = network.producers.get(name)
        return (
            producer is not None
            and producer.op_type in CONVOLUTIONS
            and producer.name in layers
            and len(network.readers[name]) == 1
            and name not in network.outputs
        )

    found: dict[str, str] = {}
    for node in network.nodes:
        if node.op_type != "Add" or node.name in exclude:
            continue
        first, second = node.input
        if not (network.is_activation(first) and network.is_activation(second)):
            continue
        if network.shapes.get(first) != network.shapes.get(second):
            continue  # a bias or an excitation that is broadcast
        fused = sorted(filter(is_fused, (first, second)), key=lambda name: order[name])
        if fused:  # of two convolutions the later one: the earlier is the shortcut's
            found[node.name] = second if fused[-1] == first else first
    return found

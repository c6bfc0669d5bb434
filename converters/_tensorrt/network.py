"""A graph as TensorRT's rules look at it: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import msgspec

from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from edge.core.tensor import Feeds

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class Network(msgspec.Struct, frozen=True):
    """Nodes by what they make and read, constants by name, and shapes for one sample.

    A dimension that is not known is 0.
    """

    nodes: list[NodeProto]
    producers: dict[str, NodeProto]
    readers: dict[str, list[NodeProto]]
    constants: dict[str, TensorProto]
    shapes: dict[str, tuple[int, ...]]
    outputs: frozenset[str]

    def is_activation(self, name: str) -> bool:
        return bool(name) and name not in self.constants

    def weight_shape(self, name: str) -> tuple[int, ...] | None:
        """Dims of a constant, also of one that goes through a Q/DQ pair; else None."""
        seen = name
        while (node := self.producers.get(seen)) is not None and node.op_type in (
            QUANTIZE,
            DEQUANTIZE,
        ):
            seen = node.input[0]
        tensor = self.constants.get(seen)
        return None if tensor is None else tuple(tensor.dims)

    def rows(self, name: str) -> int:
        """How many rows the matrix ``name`` has, its leading axes taken together."""
        return prod(self.shapes.get(name, (0,))[:-1])


def network_of(model: ModelProto, feeds: Feeds | None = None) -> Network:
    """Look at the main graph of ``model``; ``feeds``, if given, settle dynamic axes."""
    graph = model.graph
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return Network(
        nodes=list(graph.node),
        producers={name: node for node in graph.node for name in node.output},
        readers=readers,
        constants={tensor.name: tensor for tensor in graph.initializer},
        shapes=_shapes(model, feeds),
        outputs=frozenset(output.name for output in graph.output),
    )


def attribute(node: NodeProto, name: str, default: float) -> float:
    """A number that ``node`` was given, or what it is by default."""
    for item in node.attribute:
        if item.name == name:
            return float(item.f if item.type == item.FLOAT else item.i)
    return default


def has_subgraphs(model: ModelProto) -> bool:
    return any(item.HasField("g") for node in model.graph.node for item in node.attribute)


def inferred(model: ModelProto, feeds: Feeds | None = None) -> ModelProto:
    """A copy with types and shapes of all values, as far as they can be inferred."""
    onnx = require("onnx", extra="convert")
    copy = type(model)()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, feeds[value.name].shape if feeds else (), strict=False):
            dim.dim_value = size
    found: ModelProto = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    return found


def _shapes(model: ModelProto, feeds: Feeds | None) -> dict[str, tuple[int, ...]]:
    graph = inferred(model, feeds).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }

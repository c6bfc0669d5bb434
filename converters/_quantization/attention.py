"""Finds attention in a graph by its shape: a Softmax between two products of activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BETWEEN = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Where",
        "Cast",
        "Dropout",
        "Identity",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
    ]
)
"""Scales, masks and shapes, which exporters put between the products and the Softmax."""


def has_attention(model: ModelProto) -> bool:
    """Whether a Softmax weighs one product of two activations and feeds another."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def before(node: NodeProto) -> Iterable[NodeProto]:
        return (producers[name] for name in node.input if name in producers)

    def after(node: NodeProto) -> Iterable[NodeProto]:
        return (reader for name in node.output for reader in readers.get(name, ()))

    def is_product(node: NodeProto) -> bool:
        return node.op_type == "MatMul" and not constants.intersection(node.input)

    return any(
        _reaches(node, before, is_product) and _reaches(node, after, is_product)
        for node in graph.node
        if node.op_type == "Softmax"
    )


def _reaches(
    start: NodeProto,
    neighbours: Callable[[NodeProto], Iterable[NodeProto]],
    is_sought: Callable[[NodeProto], bool],
) -> bool:
    waiting, seen = list(neighbours(start)), set()
    while waiting:
        node = waiting.pop()
        if is_sought(node):
            return True
        if node.op_type in BETWEEN and id(node) not in seen:
            seen.add(id(node))
            waiting.extend(neighbours(node))
    return False

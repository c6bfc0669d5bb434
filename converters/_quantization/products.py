"""Matrix products with constant weights, and how much of a model they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from edge.core.errors import ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

LEAST_SHARE = 0.5
"""Below this share the other operators set the size and the time."""


class Product(NamedTuple):
    """A MatMul or Gemm of float32 with a constant matrix, stored (outputs, inputs) if turned."""

    node: NodeProto
    weight: str
    is_turned: bool


def products_of(graph: GraphProto) -> list[Product]:
    """Those outside of If and Loop branches whose weights are two-dimensional."""
    float32 = require("onnx", extra="convert").TensorProto.FLOAT
    matrices = {
        tensor.name
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and tensor.data_type == float32
    }
    found = []
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in matrices:
            continue
        numbers = {a.name: a.f if a.name in ("alpha", "beta") else a.i for a in node.attribute}
        is_plain = numbers.get("alpha", 1.0) == 1.0 and numbers.get("beta", 1.0) == 1.0
        if is_plain and not numbers.get("transA"):
            found.append(Product(node, node.input[1], bool(numbers.get("transB"))))
    return found


def require_products(model: ModelProto) -> float:
    """The share of the weights that lies in products, embedding tables left out of both.

    Raises:
        ModelError: It is too small for weight-only quantization to be of use.
    """
    graph = model.graph
    products = {product.weight for product in products_of(graph)}
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"} - products
    total = inside = 0
    for owner in graphs_of(graph):
        for tensor in owner.initializer:
            size = _elements(tuple(tensor.dims))
            if owner is graph and tensor.name in tables:
                continue
            total += size
            inside += size if owner is graph and tensor.name in products else 0
    share = inside / total if total else 0.0
    if share < LEAST_SHARE:
        raise ModelError(
            f"{share:.0%} of the weights lie in MatMul; weight-only and dynamic quantization are "
            "for MatMul-heavy models",
            hint="quantize it with calibration samples (--calib), or keep it in fp32",
        )
    return share


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph itself and all branches in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for branch in (attribute.g, *attribute.graphs):
                if branch.node:
                    yield from graphs_of(branch)


def drop_unused(graph: GraphProto) -> None:
    """Delete the initializers that nothing reads any more."""
    used = {value.name for value in graph.output}
    for owner in graphs_of(graph):
        used.update(name for node in owner.node for name in node.input)
        used.update(value.name for value in owner.output)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    names = {tensor.name for tensor in kept} | {n for node in graph.node for n in node.input}
    inputs = [value for value in graph.input if value.name in names]
    if len(inputs) < len(graph.input):  # weights listed as inputs, as IR 3 wanted
        listed = used | names
        inputs = [value for value in graph.input if value.name in listed]
        del graph.input[:]
        graph.input.extend(inputs)


def _elements(dims: tuple[int, ...]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count

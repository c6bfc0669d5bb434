"""Weights of matrix products in 4 or 8 bits, activations in float, for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from converters._quantization.products import (
    Product,
    drop_unused,
    products_of,
    require_products,
)
from edge.core.contracts import Recipe
from edge.core.errors import InputError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from edge.core.tensor import Array

DOMAIN = "com.microsoft"
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Ranges of a block that are tried, as shares of the full one: clipping one large weight can make
the others of its block more exact."""

LEAST_TABLE = 1 << 14
"""Elements of an embedding table that is worth three more nodes."""


RECIPES = {
    "weights": Recipe({"method": "weights"}),
    "weights-exact": Recipe({"method": "weights", "accuracy_level": 1}),
}
"""Level 4 rounds the activations too, which is fast; level 1 computes with the rounded weights in
float: of MiniLM's sentences 98.0 % keep their nearest neighbour instead of 96.5 %."""


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``block`` weights along the inputs share a scale and a zero point.

    ``accuracy_level`` is ONNX Runtime's: 4 lets it round activations to INT8, 1 computes in float.
    """

    bits: int = 8
    block: int = 32
    accuracy_level: int = 4
    method: Literal["weights"] = "weights"


def tuning_of(precision: str, options: Mapping[str, Any]) -> Tuning:
    """Read the tuning options of a request for ``int8`` or ``int4``."""
    try:
        return msgspec.convert({"bits": 4 if precision == "int4" else 8, **options}, Tuning)
    except msgspec.ValidationError as error:
        raise InputError(f"{precision} weights for ONNX Runtime: {error}") from error


def quantize(model: ModelProto, tuning: Tuning) -> tuple[str, ...]:
    """Replace products by MatMulNBits in place and return the notes on it.

    Raises:
        ModelError: The model has too few products.
    """
    share = require_products(model)
    graph = model.graph
    products = {product.node.output[0]: product for product in products_of(graph)}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    packed: dict[tuple[str, bool], list[TensorProto]] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        product = products.get(node.output[0]) if node.output else None
        if product is None:
            nodes.append(node)
            continue
        key = (product.weight, product.is_turned)
        if key not in packed:
            packed[key] = _pack(product, weights[product.weight], tuning)
        nodes.extend(_replaced(product, packed[key], weights[product.weight], tuning))
    _set_nodes(model, nodes)
    graph.initializer.extend(tensor for tensors in packed.values() for tensor in tensors)
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(require("onnx.helper", extra="convert").make_opsetid(DOMAIN, 1))
    tables = quantize_tables(model)
    drop_unused(graph)
    return (
        f"weights of {len(products)} matrix products in {tuning.bits} bits, blocks of "
        f"{tuning.block}; they hold {share:.0%} of the weights apart from embedding tables"
        + tables,
    )


def quantize_tables(model: ModelProto) -> str:
    """Embedding tables in int8 with a scale per row, in place; the words to note it by."""
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    done: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        table = tensors.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or not _is_table(node, table):
            nodes.append(node)
            continue
        name, (out,) = table.name, node.output
        if name not in done:
            values = onnx.numpy_helper.to_array(table)
            scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
            scale[scale == 0] = 1
            levels = np.round(values / scale).astype(np.int8)
            graph.initializer.append(onnx.numpy_helper.from_array(levels, f"{name}/int8"))
            graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}/scale"))
            done.add(name)
        make = onnx.helper.make_node
        ids = node.input[1]
        nodes += [
            make("Gather", [f"{name}/int8", ids], [f"{out}/int8"], f"{out}/int8"),
            make("Gather", [f"{name}/scale", ids], [f"{out}/scale"], f"{out}/scale"),
            make("Cast", [f"{out}/int8"], [f"{out}/float"], f"{out}/float", to=1),
            make("Mul", [f"{out}/float", f"{out}/scale"], [out], node.name),
        ]
    _set_nodes(model, nodes)
    drop_unused(graph)
    return f"; {len(done)} embedding tables in 8 bits" if done else ""


def _is_table(node: NodeProto, table: TensorProto) -> bool:
    rows_first = all(a.name != "axis" or a.i == 0 for a in node.attribute)
    is_float = table.data_type == 1 and len(table.dims) == 2
    return rows_first and is_float and table.dims[0] * table.dims[1] >= LEAST_TABLE


def _set_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = type(node)()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _replaced(
    product: Product, packed: list[TensorProto], weight: TensorProto, tuning: Tuning
) -> list[NodeProto]:
    make = require("onnx.helper", extra="convert").make_node
    node = product.node
    outputs, inputs = weight.dims if product.is_turned else reversed(weight.dims)
    has_bias = node.op_type == "Gemm" and len(node.input) == 3 and node.input[2]
    out = f"{node.output[0]}/product" if has_bias else node.output[0]
    quantized = make(
        "MatMulNBits",
        [node.input[0], *(tensor.name for tensor in packed)],
        [out],
        node.name,
        domain=DOMAIN,
        K=inputs,
        N=outputs,
        bits=tuning.bits,
        block_size=tuning.block,
        accuracy_level=tuning.accuracy_level,
    )
    if not has_bias:
        return [quantized]
    return [quantized, make("Add", [out, node.input[2]], [node.output[0]], f"{node.name}/bias")]


def _pack(product: Product, weight: TensorProto, tuning: Tuning) -> list[TensorProto]:
    """Levels, scales and zero points as MatMulNBits wants them, the low half of a byte first."""
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    values = onnx.numpy_helper.to_array(weight)
    rows = values if product.is_turned else values.T
    padding = -rows.shape[1] % tuning.block
    blocks = np.pad(rows, ((0, 0), (0, padding))).reshape(len(rows), -1, tuning.block)
    levels, scales, zeros = round_blocks(blocks, tuning.bits)
    if tuning.bits == 4:
        zeros = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
        levels, zeros = (part[..., 0::2] | part[..., 1::2] << 4 for part in (levels, zeros))
    turned = "/turned" if product.is_turned else ""
    parts = {"levels": levels, "scales": scales.reshape(-1), "zeros": zeros.reshape(-1)}
    return [
        onnx.numpy_helper.from_array(np.ascontiguousarray(part), f"{weight.name}{turned}/{kind}")
        for kind, part in parts.items()
    ]


def round_blocks(blocks: Array, bits: int) -> tuple[Any, Any, Any]:
    """Unsigned levels, and the scale and zero point of each block with the least square error.

    Args:
        blocks: (outputs, blocks, weights).
    """
    np = require("numpy", extra="convert")
    most = (1 << bits) - 1
    low = np.minimum(blocks.min(axis=2, keepdims=True), 0)
    high = np.maximum(blocks.max(axis=2, keepdims=True), 0)
    best: list[Any] = []
    least = None
    for shrink in SHRINKS if bits < 8 else SHRINKS[:1]:
        scale = ((high - low) * np.float32(shrink / most)).astype(np.float32)
        scale[scale == 0] = 1
        zero = np.clip(np.round(-low * np.float32(shrink) / scale), 0, most)
        levels = np.clip(np.round(blocks / scale) + zero, 0, most)
        error = np.square((levels - zero) * scale - blocks).sum(axis=2, keepdims=True)
        found = [levels, scale, zero]
        if least is None:
            best, least = found, error
        else:
            is_better = error < least
            best = [np.where(is_better, new, old) for new, old in zip(found, best, strict=True)]
            least = np.minimum(error, least)
    levels, scale, zero = best
    return levels.astype(np.uint8), scale[..., 0].astype(np.float32), zero[..., 0].astype(np.uint8)

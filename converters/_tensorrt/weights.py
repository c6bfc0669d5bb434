"""INT4 weights of matrix products, one scale for each block, computed in 16-bit floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converters._quantization.products import drop_unused, products_of, require_products
from converters._tensorrt.half import SUFFIX
from converters._tensorrt.network import DEQUANTIZE
from converters._tensorrt.writing import DEQUANTIZED, QUANTIZED, SCALE
from edge.core.errors import ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from edge.core.tensor import Array

INT4 = 22
"""``TensorProto.INT4``."""

LEVELS = 7.0
BLOCKS = (128, 64)
"""Lengths along the inputs that TensorRT has kernels for, the cheaper first."""

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Ranges of a block that are tried: clipping its largest weight can make the others more exact."""


def quantize(model: ModelProto, halved: ModelProto) -> int:
    """Replace the weights of products in ``halved``, the 16-bit form of ``model``; say of how many.

    Raises:
        ModelError: The model has too few products, or none that is a number of blocks long.
    """
    onnx = require("onnx", extra="convert")
    require_products(model)
    turned = {product.node.name: product.is_turned for product in products_of(model.graph)}
    constants = {tensor.name: tensor for tensor in halved.graph.initializer}
    nodes: list[NodeProto] = []
    done: set[str] = set()
    count = 0
    for node in halved.graph.node:
        name = node.input[1] if node.name in turned else ""
        if name.endswith(SUFFIX) and (block := _block(constants[name], turned[node.name])):
            if name not in done:
                done.add(name)
                axis = 1 if turned[node.name] else 0
                halved.graph.initializer.extend(_packed(constants[name], axis, block))
                nodes.append(
                    onnx.helper.make_node(
                        DEQUANTIZE,
                        [name + QUANTIZED, name + SCALE],
                        [name + DEQUANTIZED],
                        f"{name}/{DEQUANTIZE}",
                        axis=axis,
                        block_size=block,
                    )
                )
            node.input[1] = name + DEQUANTIZED
            count += 1
        nodes.append(node)
    if not count:
        raise ModelError(
            f"no matrix product is a multiple of {BLOCKS[-1]} long, which blocks of int4 need",
            hint="keep it in fp16",
        )
    nodes = list(nodes)
    del halved.graph.node[:]
    halved.graph.node.extend(nodes)
    drop_unused(halved.graph)
    return count


def _block(tensor: TensorProto, is_turned: bool) -> int:
    """The length of its blocks, 0 where none fits."""
    length = tensor.dims[1 if is_turned else 0]
    return next((block for block in BLOCKS if length % block == 0), 0)


def _packed(tensor: TensorProto, axis: int, block: int) -> list[TensorProto]:
    """The weights as int4 and their scales in the type that they had."""
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    source: Array = onnx.numpy_helper.to_array(tensor)
    kind: Any = source.dtype
    columns = np.moveaxis(source.astype(np.float32), axis, 0)
    blocks = columns.reshape(-1, block, columns.shape[1])
    peak = np.abs(blocks).max(axis=1, keepdims=True)
    best = error = None
    for shrink in SHRINKS:
        scale = np.maximum(peak * shrink / LEVELS, np.float32(2.0**-14)).astype(kind)
        step = scale.astype(np.float32)
        rounded = np.clip(np.round(blocks / step), -LEVELS, LEVELS)
        off = ((rounded * step - blocks) ** 2).sum(axis=1, keepdims=True)
        if best is None:
            best, error = (rounded, scale), off
        else:
            better = off < error
            best = (np.where(better, rounded, best[0]), np.where(better, scale, best[1]))
            error = np.minimum(off, error)
    assert best is not None
    int4 = onnx.helper.tensor_dtype_to_np_dtype(INT4)
    steps = np.moveaxis(best[0].reshape(columns.shape), 0, axis).astype(int4)
    scales = np.ascontiguousarray(np.moveaxis(best[1][:, 0], 0, axis)).astype(kind)
    return [
        onnx.numpy_helper.from_array(np.ascontiguousarray(steps), tensor.name + QUANTIZED),
        onnx.numpy_helper.from_array(scales, tensor.name + SCALE),
    ]

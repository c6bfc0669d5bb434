"""Moves the outliers of activations into the weights of the products that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters._quantization.products import Product, drop_unused, products_of
from converters._quantization.statistics import open_session
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from edge.core.tensor import Array, Feeds

STRENGTH = 0.85
"""How much of the unevenness goes to the weights. On MiniLM 0.8 to 0.95 keep a cosine of 0.997 to
the float embeddings, 0.5 keeps 0.991."""

SMOOTHED, EVENED = "/smoothed", "/evened"


def smooth(model: ModelProto, samples: Sequence[Feeds]) -> int:
    """Even out the channels before matrix products, in place; say before how many.

    Xiao et al. 2022, "SmoothQuant": an activation is divided per channel, and the weights that it
    is multiplied by are multiplied, which changes no answer. The division is a node of its own, as
    what comes before has other readers, such as a residual.
    """
    np = require("numpy", extra="convert")
    onnx = require("onnx", extra="convert")
    groups: dict[str, list[Product]] = {}
    for product in products_of(model.graph):
        groups.setdefault(product.node.input[0], []).append(product)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    factors: dict[str, Array] = {}
    for name, peak in _channel_peaks(model, list(groups), samples).items():
        rows = [np.abs(_inputs_first(p, constants)).max(axis=1) for p in groups[name]]
        weight = np.max(rows, axis=0)
        raw = np.maximum(peak, 1e-5) ** STRENGTH / np.maximum(weight, 1e-5) ** (1 - STRENGTH)
        factors[name] = np.maximum(raw / raw.mean(), 1e-3).astype(np.float32)
    for name, factor in factors.items():
        for product in groups[name]:
            spread = factor if product.is_turned else factor[:, None]
            weights = onnx.numpy_helper.to_array(constants[product.weight]) * spread
            scaled = f"{product.weight}/{product.node.name}{EVENED}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(weights, scaled))
            product.node.input[1] = scaled
            product.node.input[0] = name + SMOOTHED
    _divide(model, factors)
    return len(factors)


def _divide(model: ModelProto, factors: dict[str, Array]) -> None:
    """A Mul right before the first product that reads what is smoothed."""
    onnx = require("onnx", extra="convert")
    nodes: list[NodeProto] = []
    waiting = dict(factors)
    for node in model.graph.node:
        source = node.input[0].removesuffix(SMOOTHED) if node.input else ""
        if source in waiting and node.input[0] != source:
            inverse = source + EVENED
            values = (1 / waiting.pop(source)).astype("float32")
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, inverse))
            target = source + SMOOTHED
            nodes.append(onnx.helper.make_node("Mul", [source, inverse], [target], target))
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused(model.graph)


def _inputs_first(product: Product, constants: dict[str, TensorProto]) -> Array:
    """The weights as (inputs, outputs)."""
    array: Array = require("onnx", extra="convert").numpy_helper.to_array(constants[product.weight])
    return array.T if product.is_turned else array


def _channel_peaks(
    model: ModelProto, tensors: list[str], samples: Sequence[Feeds]
) -> dict[str, Array]:
    """Largest magnitude along the last axis of each of ``tensors``."""
    np = require("numpy", extra="convert")
    onnx = require("onnx", extra="convert")
    copy = type(model)()
    copy.CopyFrom(model)
    inner = [name for name in tensors if name not in {value.name for value in copy.graph.input}]
    del copy.graph.output[:]
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner
    )
    session = open_session(copy.SerializeToString())
    found: dict[str, Array] = {}
    for feeds in samples:
        for name, values in zip(inner, session.run(inner, dict(feeds)), strict=True):
            peak = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, peak), peak)
    return found

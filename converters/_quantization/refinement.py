"""Makes a float ONNX graph lose little to an INT8 quantizer, whichever it is."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from converters._quantization.bias import correct_biases, correctable
from converters._quantization.equalization import depthwise_pairs, equalize
from converters._quantization.rounding import round_weights
from converters._quantization.statistics import channel_statistics
from edge.core.contracts import Recipe
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.core.tensor import Feeds

log = logging.getLogger(__name__)

CAREFUL = Recipe(needs_samples=True)
PLAIN = Recipe({"refine": False}, needs_samples=True)
"""INT8 with the weights rounded so that errors cancel out, or each to its nearest step. The former
is nearer to float on most networks; on some, SqueezeNet 1.1 for one, it costs more right answers,
and nothing but the evaluation tells."""


def even_out(model: ModelProto, samples: Sequence[Feeds]) -> None:
    """Even out channels, for an engine with one scale per activation; see ``equalize``."""
    complete(model)
    pairs = depthwise_pairs(model)
    ranks = {pair.between: _rank(model, pair.second.input[1]) for pair in pairs}
    equalize(model, channel_statistics(model, ranks, samples).peaks)


def refine(model: ModelProto, samples: Sequence[Feeds], exclude: Collection[str] = ()) -> None:
    """Round the weights to their int8 grid, and put the lost means back.

    Args:
        exclude: Names of nodes whose weights stay as they are.
    """
    threads = require("threadpoolctl", extra="convert")
    # One thread: OpenBLAS was seen to wait for its second one without end, 13 minutes in a product
    # of matrices that takes a millisecond (numpy 2.4.6, beside the threads of ONNX Runtime).
    with threads.threadpool_limits(1, user_api="blas"):
        complete(model)
        original = type(model)()
        original.CopyFrom(model)
        rounded = round_weights(model, samples, exclude)
        ranks = {n.input[0]: _rank(model, n.input[1]) for n in correctable(original).values()}
        means = channel_statistics(original, ranks, samples).means
        corrected = correct_biases(model, original, means)
    log.info("%d layers rounded, %d biases corrected", rounded, corrected)


def complete(model: ModelProto) -> None:
    """Name the nodes, and give every convolution a bias that can be corrected."""
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in weights:
            zeros = np.zeros(weights[node.input[1]].dims[0], np.float32)
            name = f"{node.name}/bias"
            model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, name))
            node.input.append(name)


def _rank(model: ModelProto, weight: str) -> int:
    """Rank of the activation that ``weight`` is applied to."""
    return next(len(t.dims) for t in model.graph.initializer if t.name == weight)

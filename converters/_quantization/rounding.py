"""Rounds weights to the int8 grid so that the errors of one channel's weights cancel out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from converters._quantization.remembered import Remembered, key_of
from converters._quantization.statistics import open_session, with_outputs
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge.core.tensor import Array, Feeds

LEVELS = 127
LARGEST = 2048
"""Layers with more weights per output channel are left to plain rounding: time grows cubed."""

PATCHES = 256
"""Input patches taken of each sample; neighbouring ones hold nearly the same."""

DAMPING = 0.01


_known: Remembered[list[Any]] = Remembered()


class Layer(NamedTuple):
    """A convolution or Gemm with constant weights of its own."""

    node: NodeProto
    weight: str
    groups: int
    fan_in: int
    kernel: tuple[int, ...]
    is_transposed: bool


def layers_of(model: ModelProto) -> list[Layer]:
    """Layers whose weights can be rounded with care."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    used = [name for node in model.graph.node for name in node.input]
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or used.count(node.input[1]) != 1:
            continue
        dims = weights.get(node.input[1])
        attributes = {a.name: a for a in node.attribute}
        if dims is None or not _is_plain(node, dims):
            continue
        if node.op_type == "Gemm":
            turned = "transB" in attributes and attributes["transB"].i == 1
            fan_in = dims[1] if turned else dims[0]
            found.append(Layer(node, node.input[1], 1, fan_in, (), not turned))
        else:
            groups = attributes["group"].i if "group" in attributes else 1
            fan_in = dims[1] * dims[2] * dims[3]
            found.append(Layer(node, node.input[1], groups, fan_in, dims[2:], False))
    return [layer for layer in found if layer.fan_in <= LARGEST]


def round_weights(
    model: ModelProto, samples: Sequence[Feeds], exclude: Collection[str] = ()
) -> int:
    """Replace float weights by values on their int8 grid, one scale per output channel.

    Nodes that ``exclude`` names keep theirs.

    Frantar et al. 2022, "GPTQ", with the covariance in place of the second moment, since the
    biases are corrected for the mean afterwards. A quantizer that takes the largest absolute
    weight of a channel as 127 finds the same grid again.
    """
    onnx = require("onnx", extra="convert")
    layers = layers_of(model)
    if not layers:
        return 0
    key = key_of(model, samples)
    covariances = _known.get(key, lambda: _covariances(model, layers, samples))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer, covariance in zip(layers, covariances, strict=True):
        if layer.node.name in exclude:
            continue
        tensor = weights[layer.weight]
        values = onnx.numpy_helper.to_array(tensor)
        rows = (values.T if layer.is_transposed else values).reshape(-1, layer.fan_in)
        rounded = _round_rows(rows, covariance, layer.groups)
        rounded = rounded.T if layer.is_transposed else rounded
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(
                rounded.reshape(values.shape).astype(values.dtype), tensor.name
            )
        )
    return len(layers)


def _round_rows(rows: Array, covariance: Array, groups: int) -> Any:
    """Rows of weights (outputs, fan-in) on the grid; ``covariance`` is one matrix per group."""
    np = require("numpy", extra="convert")
    work = rows.astype(np.float64).reshape(groups, -1, rows.shape[1])
    scale = np.abs(work).max(axis=2, keepdims=True) / LEVELS
    scale[scale == 0] = 1.0
    # The largest weight of a row keeps its level, so that the scale can be found again.
    largest = np.abs(work).argmax(axis=2)
    factors = _inverse_factors(covariance)
    levels = np.zeros_like(work)
    for column in range(work.shape[2]):
        current = work[:, :, column]
        level = np.clip(np.round(current / scale[:, :, 0]), -LEVELS, LEVELS)
        level = np.where(largest == column, np.where(current < 0, -LEVELS, LEVELS), level)
        levels[:, :, column] = level
        factor = factors[:, column, column:]
        error = (current - level * scale[:, :, 0]) / factor[:, :1]
        work[:, :, column:] -= error[:, :, None] * factor[:, None, :]
    return (levels * scale).reshape(rows.shape)


def _inverse_factors(covariance: Array) -> Any:
    """Upper Cholesky factors of the inverses, damped so that dead inputs do no harm."""
    np = require("numpy", extra="convert")
    size = covariance.shape[1]
    mean = np.trace(covariance, axis1=1, axis2=2)[:, None, None] / size
    damped = covariance + (DAMPING * mean + 1e-12) * np.eye(size)
    try:
        inverse = np.linalg.inv(damped)
        return np.linalg.cholesky(inverse).transpose(0, 2, 1)
    except np.linalg.LinAlgError:  # inputs that say nothing of each other: plain rounding
        return np.broadcast_to(np.eye(size), covariance.shape)


def _covariances(model: ModelProto, layers: list[Layer], samples: Iterable[Feeds]) -> list[Any]:
    """Per layer (groups, fan-in, fan-in): covariance of the inputs that its weights meet."""
    np = require("numpy", extra="convert")
    names = sorted({layer.node.input[0] for layer in layers})
    session = open_session(with_outputs(model, names).SerializeToString())
    sums: list[Any] = [0.0] * len(layers)
    squares: list[Any] = [0.0] * len(layers)
    counts = [0] * len(layers)
    generator = np.random.default_rng(0)
    for feeds in samples:
        found = dict(zip(names, session.run(names, dict(feeds)), strict=True))
        for index, layer in enumerate(layers):
            seen = _patches(found[layer.node.input[0]], layer, generator)
            sums[index] = sums[index] + seen.sum(axis=1)
            squares[index] = squares[index] + np.matmul(seen.transpose(0, 2, 1), seen)
            counts[index] += seen.shape[1]
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    return [
        square / count - mean[:, :, None] * mean[:, None, :]
        for square, count, mean in zip(squares, counts, means, strict=True)
    ]


def _patches(tensor: Array, layer: Layer, generator: Any) -> Any:
    """Some of the inputs that one output sees: (groups, patches, fan-in)."""
    np = require("numpy", extra="convert")
    if not layer.kernel:
        return tensor.reshape(1, -1, layer.fan_in).astype(np.float64)
    attributes = {a.name: list(a.ints) for a in layer.node.attribute}
    strides = attributes.get("strides") or [1, 1]
    dilations = attributes.get("dilations") or [1, 1]
    pads = attributes.get("pads") or [0, 0, 0, 0]
    padded = np.pad(tensor, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = [(k - 1) * d + 1 for k, d in zip(layer.kernel, dilations, strict=True)]
    height, width = (
        (size - r) // s + 1 for size, r, s in zip(padded.shape[2:], reach, strides, strict=True)
    )
    total = tensor.shape[0] * height * width
    chosen = generator.choice(total, min(PATCHES, total), replace=False)
    batch, row, column = np.unravel_index(chosen, (tensor.shape[0], height, width))
    parts = [
        padded[
            batch, :, row * strides[0] + y * dilations[0], column * strides[1] + x * dilations[1]
        ]
        for y, x in _offsets(layer.kernel)
    ]
    stacked = np.stack(parts, axis=2)  # patches, channels, kernel
    grouped = stacked.reshape(len(chosen), layer.groups, layer.fan_in)
    return grouped.transpose(1, 0, 2).astype(np.float64)


def _offsets(kernel: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            yield y, x


def _is_plain(node: NodeProto, dims: tuple[int, ...]) -> bool:
    """Two spatial axes and padding that is written out; a Gemm that takes its input as it is."""
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Gemm":
        return not ("transA" in attributes and attributes["transA"].i)
    automatic = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
    return len(dims) == 4 and automatic in (b"NOTSET", b"")

"""Folds "space to depth, then convolve" into one convolution with a larger kernel and stride."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edge.core.tensor import Array

SPATIAL = [2, 3]
END = 2**30
"""Exporters write the end of an open slice as the largest integer they have."""


def fold_space_to_depth(model: ModelProto) -> ModelProto:
    """Replace strided slices that are concatenated and convolved (the stem of YOLOv5 and YOLOX).

    Each pixel is copied three times by the slices and the concatenation; a kernel of twice the
    size that steps over twice as many pixels has the same weights and sums.
    """
    graph = model.graph
    onnx = require("onnx", extra="convert")
    producers = {name: node for node in graph.node for name in node.output}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    readers: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in graph.node:
        found = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if found is None or readers[found.output[0]] != 1 or node.input[1] not in constants:
            continue
        blocks = _blocks(found, producers, constants)
        if blocks is not None and _is_plain(node):
            _widen(model, node, blocks, constants[node.input[1]])
    _drop_unread(model)
    return model


class _Blocks:
    """``source`` cut in ``size`` by ``size`` phases; ``order`` has (row, column) of each."""

    def __init__(self, source: str, size: int, order: list[tuple[int, int]]) -> None:
        self.source = source
        self.size = size
        self.order = order


def _blocks(
    node: NodeProto, producers: dict[str, NodeProto], constants: dict[str, Array]
) -> _Blocks | None:
    if node.op_type == "SpaceToDepth":
        size = next(a.i for a in node.attribute if a.name == "blocksize")
        return _Blocks(node.input[0], size, [(y, x) for y in range(size) for x in range(size)])
    if node.op_type != "Concat" or next(a.i for a in node.attribute if a.name == "axis") != 1:
        return None
    slices = [producers.get(name) for name in node.input]
    phases = [_phase(each, constants) for each in slices if each is not None]
    if len(phases) != len(slices) or any(phase is None for phase in phases):
        return None
    sources, sizes, order = zip(*[phase for phase in phases if phase], strict=True)
    size = sizes[0]
    complete = {(y, x) for y in range(size) for x in range(size)}
    if len({*sources}) > 1 or len({*sizes}) > 1 or len(order) != size**2 or {*order} != complete:
        return None
    return _Blocks(sources[0], size, list(order))


def _phase(node: NodeProto, constants: dict[str, Array]) -> tuple[str, int, tuple[int, int]] | None:
    """What a slice of every nth row and column starts with, if it is one."""
    if node.op_type != "Slice" or len(node.input) != 5:
        return None
    given = [constants.get(name) for name in node.input[1:]]
    if any(value is None for value in given):
        return None
    starts, ends, axes, steps = (value.tolist() for value in given if value is not None)
    if sorted(axes) != SPATIAL or len({*steps}) != 1 or steps[0] < 2 or min(ends) < END:
        return None
    start = dict(zip(axes, starts, strict=True))
    if not all(0 <= value < steps[0] for value in starts):
        return None
    return node.input[0], steps[0], (start[2], start[3])


def _is_plain(conv: NodeProto) -> bool:
    """No groups, no dilation, and padding that is written out."""
    attributes = {a.name: a for a in conv.attribute}
    automatic = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
    dilations = list(attributes["dilations"].ints) if "dilations" in attributes else [1, 1]
    groups = attributes["group"].i if "group" in attributes else 1
    return automatic in (b"NOTSET", b"") and dilations == [1, 1] and groups == 1


def _widen(model: ModelProto, conv: NodeProto, blocks: _Blocks, weights: Array) -> None:
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    size, phases = blocks.size, len(blocks.order)
    outputs, channels, height, width = weights.shape
    by_phase: Any = weights.reshape(outputs, phases, channels // phases, height, width)
    wide = np.zeros((outputs, channels // phases, height * size, width * size), weights.dtype)
    for index, (row, column) in enumerate(blocks.order):
        wide[:, :, row::size, column::size] = by_phase[:, index]
    name = f"{conv.input[1]}/wide"
    model.graph.initializer.append(onnx.numpy_helper.from_array(wide, name))
    conv.input[0], conv.input[1] = blocks.source, name
    given = {a.name: list(a.ints) for a in conv.attribute}
    changed = {
        "kernel_shape": [height * size, width * size],
        "strides": [size * step for step in given.get("strides") or [1, 1]],
        "pads": [size * pad for pad in given.get("pads") or [0, 0, 0, 0]],
    }
    kept = [a for a in conv.attribute if a.name not in changed]
    del conv.attribute[:]
    conv.attribute.extend(kept)
    conv.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in changed.items())


def _drop_unread(model: ModelProto) -> None:
    """Take out nodes and weights that nothing reads any more."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        dead = [n for n in graph.node if not read.intersection(n.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)

"""The same graph in FP32 with the roundings written out, for an engine on the CPU to run.

ONNX Runtime computes FP16 on x86 in FP32 and drops the roundings in between, so that an FP16 graph
looks more accurate there than it is, and computes no BF16. Here every result of 16 bits goes there
and back: what overflows there overflows here. Sums are in FP32, as on tensor cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from converters._tensorrt.half import FLOAT, KINDS, SUFFIX, plain
from converters._tensorrt.network import DEQUANTIZE, inferred
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPTIONS = {"session.disable_quant_qdq": "1"}
"""For ONNX Runtime: pairs round as they are written, and are not fused into other arithmetic."""

ROUNDED, EXACT = "/rounded", "/exact"


def emulated(model: ModelProto) -> ModelProto:
    """A copy of ``model`` whose floats are all FP32, rounded where they were FP16 or BF16.

    Tensors have their names in the source again, as far as they have one form only.
    """
    onnx = require("onnx", extra="convert")
    copy = type(model)()
    copy.CopyFrom(model)
    types = _halves(model)
    names = _names(model)
    graph = copy.graph
    for tensor in graph.initializer:
        if tensor.data_type in KINDS:
            array = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    nodes: list[NodeProto] = []
    for node in graph.node:
        rounded = [name for name in node.output if name in types and node.op_type != DEQUANTIZE]
        if node.op_type == "Cast":
            _cast_in_float(node)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [
            names.get(name, name) + (EXACT if name in rounded else "") for name in node.output
        ]
        nodes.append(node)
        for name in rounded:
            nodes += _rounding(names.get(name, name), types[name])
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return copy


def _rounding(name: str, kind: int) -> list[NodeProto]:
    make = require("onnx", extra="convert").helper.make_node
    return [
        make("Cast", [name + EXACT], [name + ROUNDED], f"{name}{ROUNDED}", to=kind),
        make("Cast", [name + ROUNDED], [name], f"{name}{EXACT}", to=FLOAT),
    ]


def _cast_in_float(node: NodeProto) -> None:
    for item in node.attribute:
        if item.name == "to" and item.i in KINDS:
            item.i = FLOAT


def _halves(model: ModelProto) -> dict[str, int]:
    """Values that are computed in 16 bits, and in which."""
    graph = inferred(model).graph
    return {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type in KINDS
    }


def _names(model: ModelProto) -> dict[str, str]:
    """Names in 16 bits -> those in the source, but for tensors that are there in both forms."""
    graph = model.graph
    taken = {name for node in graph.node for name in node.output}
    taken |= {value.name for value in (*graph.input, *graph.initializer)}
    return {
        name: plain(name)
        for node in graph.node
        for name in node.output
        if name.endswith(SUFFIX) and plain(name) not in taken
    }

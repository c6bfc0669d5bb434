"""FP16 and BF16 by casts: inputs and outputs keep their types, what FP16 can't hold is FP32."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from converters._tensorrt.network import has_subgraphs, inferred
from edge.core.errors import ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

SUFFIX = "/half"
"""Of the 16-bit form of a tensor; its own name is that of its FP32 form, if it has one."""

LARGEST_ACTIVATION = 4096.0
"""Beyond it a layer stays in FP32. A sixteenth of FP16's range, for inputs that were not seen and
for kernels that sum in FP16. NVIDIA's AutoCast takes 512, which leaves 25 of the 66 nodes of
SqueezeNet 1.1 in FP32, whose accuracy is the same without."""

LARGEST_WEIGHT = 65504.0
"""The largest number of FP16."""

FLOAT, HALF, BFLOAT = 1, 10, 16
"""``TensorProto.DataType``."""

KINDS = {HALF: "tensor(float16)", BFLOAT: "tensor(bfloat16)"}

_AS_IT_COMES = frozenset(["Cast", "Shape", "Size", "IsNaN"])
"""They read either form of a tensor; what they give depends on neither."""

_NO_BFLOAT = frozenset(["ConvTranspose"])
"""TensorRT-RTX 1.7 can't infer its type: "Could not infer output types for operation: deconv"."""

_IN_FLOAT = frozenset(["QuantizeLinear", "DequantizeLinear"])


class Halved(msgspec.Struct, frozen=True):
    """The graph, and by name the nodes that stay in FP32, with the reason."""

    model: Any
    kept: dict[str, str]


def plain(name: str) -> str:
    """The name that a tensor has in the source."""
    return name.removesuffix(SUFFIX)


def out_of_range(
    model: ModelProto, peaks: Mapping[str, float], limit: float = LARGEST_ACTIVATION
) -> dict[str, str]:
    """Nodes, by name, that FP16 can't compute, and why.

    Args:
        peaks: Tensor -> largest magnitude on real samples; empty where there are none.
    """
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    weights = {
        tensor.name: float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == FLOAT
    }
    found: dict[str, str] = {}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            if weights.get(name, 0.0) > LARGEST_WEIGHT:
                found[node.name] = f"weights up to {weights[name]:.3g}"
            elif peaks.get(name, 0.0) > limit:
                found[node.name] = f"values up to {peaks[name]:.3g}"
    return found


def to_half(model: ModelProto, in_float: Mapping[str, str], kind: int = HALF) -> Halved:
    """Compute in FP16, or BF16, all that ONNX allows, but for the nodes named in ``in_float``.

    Raises:
        ModelError: The graph has branches or loops, whose insides are not looked at, or a tensor
            whose type can't be inferred.
    """
    if has_subgraphs(model):
        raise ModelError(
            "the model has If, Loop or Scan branches, which are not written in 16 bits",
            hint="keep it in fp32",
        )
    return Halved(_Halving(model, in_float, kind).run(), dict(in_float))


def to_bfloat(model: ModelProto) -> ModelProto:
    """Compute in BF16, whose range is that of FP32, all that ONNX and TensorRT allow."""
    in_float = {n.name: "no kernel" for n in model.graph.node if n.op_type in _NO_BFLOAT}
    converted: ModelProto = to_half(model, in_float, BFLOAT).model
    return converted


class _Halving:
    """One pass over the nodes in execution order; casts are made where they are first needed."""

    def __init__(self, model: ModelProto, in_float: Collection[str], kind: int) -> None:
        self._onnx = require("onnx", extra="convert")
        self._source = model
        self._in_float = in_float
        self._kind = kind
        self._types = _element_types(model)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._made = {value.name for value in model.graph.input} | set(self._constants)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def run(self) -> ModelProto:
        for node in self._source.graph.node:
            self._write(node)
        for output in self._source.graph.output:
            self._float(output.name)
        model = type(self._source)()
        model.CopyFrom(self._source)
        graph = model.graph
        del graph.node[:], graph.value_info[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        used = {name for node in graph.node for name in node.input}
        used |= {output.name for output in graph.output}
        weights = (*self._source.graph.initializer, *self._weights)
        graph.initializer.extend(tensor for tensor in weights if tensor.name in used)
        return model

    def _write(self, original: NodeProto) -> None:
        node = type(original)()
        node.CopyFrom(original)
        if node.op_type in _AS_IT_COMES:
            self._write_as_it_comes(node)
            return
        formals = self._formals(node)
        halved: set[str] = set()
        for index, (name, formal) in enumerate(zip(original.input, formals, strict=False)):
            if not name or self._type(name) != FLOAT:
                continue
            if formal and node.name not in self._in_float:
                halved.add(formal)
                node.input[index] = self._half(name)
            else:
                self._float(name)
        for index, (name, formal) in enumerate(
            zip(original.output, self._formals(node, of_outputs=True), strict=False)
        ):
            if name and formal in halved and self._type(name) == FLOAT:
                node.output[index] = name + SUFFIX
        self._made.update(node.output)
        self._nodes.append(node)

    def _write_as_it_comes(self, node: NodeProto) -> None:
        if node.input[0] not in self._made:
            node.input[0] += SUFFIX
        self._made.update(node.output)
        self._nodes.append(node)

    def _formals(self, node: NodeProto, *, of_outputs: bool = False) -> list[str]:
        """For each input or output the name of its type, empty where 16 bits are not allowed."""
        if node.op_type in _IN_FLOAT:
            return [""] * len(node.input)
        try:
            schema = self._onnx.defs.get_schema(
                node.op_type, self._opsets.get(node.domain, 0), node.domain
            )
        except Exception as error:  # its SchemaError is private to the C++ side
            raise ModelError(
                f"node {node.name} is no standard operator: {node.domain} {node.op_type}"
            ) from error
        allowed = {
            constraint.type_param_str
            for constraint in schema.type_constraints
            if KINDS[self._kind] in constraint.allowed_type_strs
        }
        formal = [f.type_str for f in (schema.outputs if of_outputs else schema.inputs)]
        count = len(node.output if of_outputs else node.input)
        formal += formal[-1:] * (count - len(formal))  # the last one may take any number
        return [name if name in allowed else "" for name in formal[:count]]

    def _half(self, name: str) -> str:
        half = name + SUFFIX
        if half not in self._made:
            if name in self._constants:
                kind = self._onnx.helper.tensor_dtype_to_np_dtype(self._kind)
                array = self._onnx.numpy_helper.to_array(self._constants[name]).astype(kind)
                self._weights.append(self._onnx.numpy_helper.from_array(array, half))
                self._made.add(half)
            else:
                self._cast(name, half, self._kind)
        return half

    def _float(self, name: str) -> None:
        if name not in self._made:
            self._cast(name + SUFFIX, name, FLOAT)

    def _cast(self, source: str, target: str, to: int) -> None:
        node = self._onnx.helper.make_node("Cast", [source], [target], f"{target}/cast", to=to)
        self._nodes.append(node)
        self._made.add(target)

    def _type(self, name: str) -> int:
        if name not in self._types:
            raise ModelError(
                f"the type of {name!r} can not be inferred, so it is not written in 16 bits",
                hint="keep it in fp32",
            )
        return self._types[name]


def _element_types(model: ModelProto) -> dict[str, int]:
    graph = inferred(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: kind for name, kind in types.items() if kind}

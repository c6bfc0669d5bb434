"""Shape and type of every value in a graph, once its dynamic axes have a size."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edge.conversion import graph
from edge.core.errors import ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

ASSUMED_PIXELS = 224
ASSUMED_LENGTH = 128
"""Sizes of dynamic axes that are no batch: of inputs with four axes or more, and of others."""

_SMALL = 1024  # elements; above it no tensor is a shape that other shapes follow from


class Width(NamedTuple):
    """Bytes that a float takes among the weights, and among the activations."""

    weights: float
    activations: float


WIDTHS = {
    "fp32": Width(4, 4),
    "bf16": Width(2, 2),
    "fp16": Width(2, 2),
    "fp8": Width(1, 1),
    "int8": Width(1, 1),
    "fp4": Width(0.5, 0.5),
    "int4": Width(0.5, 2),
}
"""By precision. Only weights are integers of 4 bits; what is computed with them is FP16."""


class Value(NamedTuple):
    """``dtype`` is ONNX's name of it, such as ``FLOAT`` or ``INT64``; ``bits`` those it takes."""

    shape: tuple[int, ...]
    dtype: str
    bits: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def size(self, width: float) -> int:
        """Bytes, where floats are ``width`` bytes wide unless they are narrower in the source."""
        bits = min(self.bits, width * 8) if "FLOAT" in self.dtype else self.bits
        return math.ceil(self.elements * bits / 8)


class Scope(NamedTuple):
    """One graph and the branches in it, by the index of their node.

    ``values`` holds those of the graphs around it as well; what is missing there is unknown.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[NodeProto, ...]
    weights: dict[str, Value]
    values: dict[str, Value]
    branches: dict[int, tuple[Scope, ...]]

    def walk(self) -> Iterator[Scope]:
        yield self
        for branches in self.branches.values():
            for branch in branches:
                yield from branch.walk()


class Sizes(msgspec.Struct, frozen=True):
    """A graph with sizes. ``assumed`` has the dynamic axes that a size was made up for."""

    scope: Scope
    batch: int | None
    assumed: dict[str, int]
    unknown: tuple[str, ...]


class Skeleton:
    """A graph without its weights' values, so that its shapes are found again in no time."""

    def __init__(self, model: ModelProto) -> None:
        self._names = {value.name for value in model.graph.input}
        self._weights = {tensor.name: _value_of(tensor) for tensor in model.graph.initializer}
        self._model = self._without_values(model)
        self.batch_names = {
            d.dim_param
            for value in self._inputs()
            for d in value.type.tensor_type.shape.dim[:1]
            if not d.dim_value
        }
        """Names of first axes that are dynamic; an empty one where an axis has no name."""

    def _without_values(self, model: ModelProto) -> ModelProto:
        onnx = require("onnx", extra="convert")
        bare: ModelProto = type(model)(ir_version=model.ir_version)
        bare.opset_import.extend(model.opset_import)
        bare.functions.extend(model.functions)
        into = bare.graph
        into.name = "skeleton"
        into.input.extend(model.graph.input)
        into.output.extend(model.graph.output)
        into.value_info.extend(model.graph.value_info)
        constants = {}
        for node in model.graph.node:
            tensor = _constant(node)
            if tensor is None or math.prod(tensor.dims) <= _SMALL:
                into.node.append(node)
            if tensor is not None:
                constants[node.output[0]] = tensor
                self._weights[node.output[0]] = _value_of(tensor)
        for name, tensor in [*((t.name, t) for t in model.graph.initializer), *constants.items()]:
            if math.prod(tensor.dims) > _SMALL:
                made = onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
                into.input.append(made)
            elif name not in constants:
                into.initializer.append(tensor)
        return bare

    def _inputs(self) -> list[ValueInfoProto]:
        return [v for v in self._model.graph.input if v.name in self._names]

    def sizes(self, batch: int = 1) -> Sizes:
        """Give dynamic axes a size, and follow them through the graph.

        Raises:
            ModelError: The graph is not sound.
        """
        onnx = require("onnx", extra="convert")
        model = type(self._model)()
        model.CopyFrom(self._model)
        assumed: dict[str, int] = {}
        inputs = [value for value in model.graph.input if value.name in self._names]
        for value, spec in zip(inputs, graph.tensor_specs(inputs), strict=True):
            length = ASSUMED_PIXELS if len(spec.shape) > 3 else ASSUMED_LENGTH
            for axis, (dim, name) in enumerate(
                zip(value.type.tensor_type.shape.dim, spec.shape, strict=True)
            ):
                if isinstance(name, int):
                    continue
                is_batch = axis == 0 or (dim.dim_param != "" and dim.dim_param in self.batch_names)
                dim.dim_value = batch if is_batch else assumed.setdefault(name, length)
        told = (*self._model.graph.value_info, *self._model.graph.output)
        _forget_shapes(model.graph)
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception as error:  # the C++ side raises RuntimeError, InferenceError and others
            raise ModelError(f"the shapes in the graph can not be followed: {error}") from error
        scope = _scope(inferred.graph, self._weights, {})
        _complete(scope, told, {**dict.fromkeys(self.batch_names - {""}, batch), **assumed})
        return Sizes(
            scope=scope,
            batch=batch if self.batch_names else None,
            assumed=assumed,
            unknown=tuple(name for part in scope.walk() for name in _unknown(part)),
        )


def view_of(node: NodeProto) -> str | None:
    """The value whose memory the node's output is; nothing for a node that writes its own."""
    return node.input[0] if node.op_type in _VIEWS and node.input else None


_VIEWS = frozenset({"Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze", "Dropout"})


def _forget_shapes(graph: GraphProto) -> None:
    """What the file says of shapes was said of dynamic ones."""
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _complete(scope: Scope, told: Iterable[ValueInfoProto], axes: Mapping[str, int]) -> None:
    """Take from the file what inference could not find, as with operators that are not ONNX's."""
    for value in told:
        tensor = value.type.tensor_type
        dims = tuple(d.dim_value or axes.get(d.dim_param, 0) for d in tensor.shape.dim)
        if value.name not in scope.values and tensor.HasField("shape") and all(dims):
            scope.values[value.name] = Value(dims, *_kind(tensor.elem_type))


def _scope(graph: GraphProto, weights: dict[str, Value], outer: Mapping[str, Value]) -> Scope:
    values = {**outer, **weights}
    for value in (*graph.input, *graph.value_info, *graph.output):
        _add(values, value)
    kept = [node for node in graph.node if node.op_type != "Constant" or node.domain]
    branches = {
        index: tuple(
            _scope(branch, _weights_of(branch), values)
            for attribute in node.attribute
            for branch in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
        )
        for index, node in enumerate(kept)
    }
    return Scope(
        inputs=tuple(value.name for value in graph.input if value.name not in weights),
        outputs=tuple(value.name for value in graph.output),
        nodes=tuple(kept),
        weights=weights,
        values=values,
        branches={index: found for index, found in branches.items() if found},
    )


def _add(values: dict[str, Value], value: ValueInfoProto) -> None:
    """Only of a shape that is known in full can the size be told."""
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    if tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims):
        values[value.name] = Value(tuple(d.dim_value for d in dims), *_kind(tensor.elem_type))


def _unknown(scope: Scope) -> Iterator[str]:
    for node in scope.nodes:
        yield from (name for name in node.output if name and name not in scope.values)


def _weights_of(graph: GraphProto) -> dict[str, Value]:
    weights = {tensor.name: _value_of(tensor) for tensor in graph.initializer}
    for node in graph.node:
        tensor = _constant(node)
        if tensor is not None:
            weights[node.output[0]] = _value_of(tensor)
    return weights


def _constant(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant":
        return None
    return next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)


def _value_of(tensor: TensorProto) -> Value:
    return Value(tuple(tensor.dims), *_kind(tensor.data_type))


def _kind(data_type: int) -> tuple[str, int]:
    """Name of a type, and the bits of an element."""
    onnx = require("onnx", extra="convert")
    try:
        name = str(onnx.TensorProto.DataType.Name(data_type))
    except ValueError:  # a damaged file, or a type that is newer than the library
        return "UNDEFINED", 0
    digits = re.search(r"\d+", name)  # as in UINT4, BFLOAT16 and FLOAT8E4M3FN
    return name, _BITS.get(name, int(digits.group()) if digits else 0)


_BITS = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8, "STRING": 64}

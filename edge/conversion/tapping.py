"""Model files whose inner values can be made outputs, so that two forms of a model compare.

What differs is the file format, not the engine: a copy of the file with more outputs is opened by
the engine's own backend, with the options of the variant. A new engine that takes one of these
formats needs nothing here.

A value is taken as the next layer reads it: behind its QuantizeLinear and DequantizeLinear, or its
FakeQuantize, if it has them. So a layer's error includes the rounding of its result; and the
engine can still run the layer in integers, which it can't if the float result has to come out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from edge.conversion.graph import drop_initializer_inputs, label
from edge.conversion.source import read_model
from edge.core.errors import ModelError, UnsupportedError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ONNX_CARRIERS = {
    *("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Dropout", "Constant"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"),
}
_IR_CARRIERS = {
    *("FakeQuantize", "Convert", "ConvertLike", "Parameter", "Constant", "Result"),
    *("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Broadcast"),
}
"""What hands values on as they are: its error is that of the layer before."""

_IR_FLOATS = ("f16", "bf16", "f32", "f64")


class Node(msgspec.Struct, frozen=True):
    """A node that depends on the model's inputs.

    ``result`` and ``reads`` are values by key, ``value`` is the result as the next node reads it.
    ``names`` are those under which another form of the model may know the result.
    """

    label: str
    op: str
    result: str
    reads: tuple[str, ...]
    value: str
    names: tuple[str, ...]
    size_bytes: int
    is_layer: bool
    is_output: bool


class TappedFile(Protocol):
    """``nodes`` in execution order; ``values`` maps a tensor's name to the key of its value."""

    nodes: tuple[Node, ...]
    values: dict[str, str]

    def expose(self, values: Collection[str], path: Path) -> dict[str, str]:
        """Write the model to ``path`` with ``values`` among its outputs; key -> output name."""
        ...


class OnnxFile:
    """Values are keyed by tensor name. Those in the branches of If and Loop stay inside."""

    def __init__(self, path: Path) -> None:
        self._model = read_model(path)
        drop_initializer_inputs(self._model)
        readers: dict[str, list[NodeProto]] = {}
        for node in self._model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        outputs = {value.name for value in self._model.graph.output}
        sizes = _float_sizes(self._model)
        live = _reached(readers, (value.name for value in self._model.graph.input))
        nodes = []
        self.values: dict[str, str] = {}
        for node in self._model.graph.node:
            if live.isdisjoint(node.input):
                continue
            for name in filter(None, node.output):
                self.values[name] = _behind_quantizer(name, readers)
            name = next(filter(None, node.output))
            nodes.append(
                Node(
                    label(node),
                    node.op_type,
                    name,
                    tuple(node.input),
                    self.values[name],
                    (name, self.values[name]),
                    sizes.get(name) or 0,
                    is_layer=sizes.get(name, 0) is not None
                    and (name in outputs or node.op_type not in _ONNX_CARRIERS),
                    is_output=not outputs.isdisjoint((name, self.values[name])),
                )
            )
        self.nodes = tuple(nodes)

    def expose(self, values: Collection[str], path: Path) -> dict[str, str]:
        onnx = require("onnx", extra="convert")
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        known = {value.name for value in model.graph.output}
        # Without a type: it may be float16, and ONNX Runtime infers it.
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in values if name not in known
        )
        path.write_bytes(model.SerializeToString())
        return {name: name for name in values}


def _reached(readers: Mapping[str, list[NodeProto]], start: Iterable[str]) -> set[str]:
    """Tensors that depend on those in ``start``; nodes may stand in any order."""
    reached: set[str] = set()
    found = list(start)
    while found:
        name = found.pop()
        if name not in reached:
            reached.add(name)
            found += [output for node in readers.get(name, ()) for output in node.output]
    return reached - {""}


def _behind_quantizer(name: str, readers: Mapping[str, list[NodeProto]]) -> str:
    for quantizer in readers.get(name, ()):
        if quantizer.op_type == "QuantizeLinear" and quantizer.input[0] == name:
            for dequantizer in readers.get(quantizer.output[0], ()):
                if dequantizer.op_type == "DequantizeLinear":
                    return str(dequantizer.output[0])
    return name


def _float_sizes(model: ModelProto) -> dict[str, int | None]:
    """Bytes by tensor, with 1 for an axis that is not known, or None for what holds no floats."""
    onnx = require("onnx", extra="convert")
    kinds = onnx.TensorProto
    floats = {kinds.FLOAT: 4, kinds.FLOAT16: 2, kinds.BFLOAT16: 2, kinds.DOUBLE: 8}
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes: dict[str, int | None] = {}
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        is_unknown = not value.type.WhichOneof("value") or (
            value.type.HasField("tensor_type") and not tensor.elem_type
        )
        if not is_unknown:
            item = floats.get(tensor.elem_type)
            sizes[value.name] = item and item * prod(d.dim_value or 1 for d in tensor.shape.dim)
    return sizes


class OpenVinoFile:
    """An IR. Values are keyed by ``node:port``; the ONNX frontend keeps the names of tensors.

    Results that have to come out are not fused with what follows them, so sums may be rounded
    otherwise than in the model as it runs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        ops = _read_ir(path).get_ordered_ops()
        live = {op.get_friendly_name() for op in ops if op.get_type_name() == "Parameter"}
        nodes = []
        self.values: dict[str, str] = {}
        tensors: dict[str, str] = {}
        for op in ops:
            name, inputs = (
                op.get_friendly_name(),
                [port.get_source_output() for port in op.inputs()],
            )
            if live.isdisjoint(port.get_node().get_friendly_name() for port in inputs):
                continue
            live.add(name)
            if op.get_type_name() == "Result":
                continue
            for port in op.outputs():
                value = _key(_behind_fake_quantize(port))
                self.values.setdefault(name, value)
                tensors.update(dict.fromkeys(sorted(port.get_names()), value))
            nodes.append(_node(op, tuple(map(_key, inputs))))
        self.values |= tensors  # a tensor's name counts for more than a node's
        self.nodes = tuple(nodes)

    def expose(self, values: Collection[str], path: Path) -> dict[str, str]:
        model = _read_ir(self._path)
        ports = {_key(port): port for op in model.get_ordered_ops() for port in op.outputs()}
        # Compiling adds the names of a Clamp that it drops to those of what the Clamp read, and an
        # output goes by its first name in the alphabet: "#" comes before letters, digits and "/".
        names = {
            _key(port.get_node().input_value(0)): port.get_any_name() for port in model.outputs
        }
        for number, value in enumerate(value for value in values if value not in names):
            names[value] = f"#{number}"
            ports[value].get_tensor().set_names({names[value]})
        model.add_outputs([ports[value] for value in values])
        require("openvino", extra="convert").save_model(model, path, compress_to_fp16=False)
        return names


def _read_ir(path: Path) -> Any:
    try:
        return require("openvino", extra="convert").Core().read_model(path)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO can not read {path.name}: {error}") from error


def _node(op: Any, reads: tuple[str, ...]) -> Node:
    port = op.output(0)
    behind = _behind_fake_quantize(port)
    element = port.get_element_type()
    is_output = any(
        reader.get_node().get_type_name() == "Result"
        for value in (port, behind)
        for reader in value.get_target_inputs()
    )
    is_float = element.get_type_name() in _IR_FLOATS
    return Node(
        op.get_friendly_name(),
        op.get_type_name(),
        _key(port),
        reads,
        _key(behind),
        (*sorted(port.get_names()), op.get_friendly_name(), *sorted(behind.get_names())),
        prod(max(1, dim.get_min_length()) for dim in port.get_partial_shape()) * element.size,
        is_layer=is_float and (is_output or op.get_type_name() not in _IR_CARRIERS),
        is_output=is_output,
    )


def _behind_fake_quantize(port: Any) -> Any:
    for reader in port.get_target_inputs():
        if reader.get_node().get_type_name() == "FakeQuantize" and reader.get_index() == 0:
            return reader.get_node().output(0)
    return port


def _key(port: Any) -> str:
    return f"{port.get_node().get_friendly_name()}:{port.get_index()}"


_FORMATS: dict[str, type[OnnxFile] | type[OpenVinoFile]] = {
    ".onnx": OnnxFile,
    ".xml": OpenVinoFile,
}


def open_tapped(path: Path) -> TappedFile:
    """Read a model file.

    Raises:
        UnsupportedError: Nothing is known of the insides of such a file.
        ModelError: It can't be read.
    """
    if path.suffix not in _FORMATS:
        raise UnsupportedError(
            f"{path.name} can not be looked into", hint=f"formats are {', '.join(_FORMATS)}"
        )
    return _FORMATS[path.suffix](path)

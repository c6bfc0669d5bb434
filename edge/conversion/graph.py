"""What is asked of an ONNX graph and done to it, in memory and without a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from edge.core.errors import InputError, ModelError
from edge.core.lazy import require
from edge.core.tensor import Dim, TensorSpec

if TYPE_CHECKING:
    from onnx import (
        GraphProto,
        ModelProto,
        NodeProto,
        TensorProto,
        TensorShapeProto,
        ValueInfoProto,
    )

STANDARD_DOMAINS = ("", "ai.onnx")

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

INFINITY = "infinity"

FLOATS = ("FLOAT", "DOUBLE", "BFLOAT")
"""What the names of ONNX's types of floats start with."""


def opset_of(model: ModelProto) -> int:
    """Version of the standard operator set; 0 when the model imports none."""
    return max((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), default=0)


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of ``graph`` and of every subgraph in it, such as the branches of ``If``."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)
            for subgraph in attribute.graphs:
                yield from all_nodes(subgraph)


def label(node: NodeProto) -> str:
    """The node's name; for one without, the name of the first tensor it writes."""
    return node.name or next(filter(None, node.output), node.op_type)


def op_counts(model: ModelProto) -> dict[str, int]:
    """Operator -> how many nodes, the most frequent first."""
    return dict(Counter(node.op_type for node in all_nodes(model.graph)).most_common())


def is_text_intact(model: ModelProto) -> bool:
    """Whether all names are text; protobuf gives bytes for what is not valid UTF-8."""
    texts: list[object] = [o.domain for o in model.opset_import]
    for node in all_nodes(model.graph):
        texts += [node.op_type, node.domain, node.name, *node.input, *node.output]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        texts += [value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim)]
    texts += [tensor.name for tensor in model.graph.initializer]
    return all(isinstance(text, str) for text in texts)


def unknown_ops(model: ModelProto) -> dict[str, list[str]]:
    """Operators that neither ONNX, ONNX Runtime nor the model itself defines -> node names."""
    onnx = require("onnx", extra="convert")
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", extra="convert")
    versions = {_domain(o.domain): o.version for o in model.opset_import}
    own = {(f.domain, f.name) for f in model.functions}
    contributed = {(s.domain, s.name) for s in state.get_all_operator_schema()}
    found: dict[str, list[str]] = {}
    for index, node in enumerate(all_nodes(model.graph)):
        domain = _domain(node.domain)
        known = (
            onnx.defs.has(node.op_type, versions.get(domain, 1), domain)
            or (domain, node.op_type) in own
            or (domain != "" and (domain, node.op_type) in contributed)
        )
        if not known:
            op = f"{domain}::{node.op_type}" if domain else node.op_type
            found.setdefault(op, []).append(node.name or f"#{index}")
    return found


def broken_weights(model: ModelProto) -> dict[str, str]:
    """Nodes whose weights hold what no number is -> what they hold, and which weight it is.

    NaN is broken anywhere, infinity only as a factor: masks add it or choose it.
    """
    held: dict[str, str] = {}
    for graph in _graphs(model.graph):
        constants = [(n, a.t) for n in graph.node if n.op_type == "Constant" for a in n.attribute]
        tensors = [(tensor.name, tensor) for tensor in graph.initializer]
        tensors += [(node.output[0], tensor) for node, tensor in constants if tensor.data_type]
        held |= {name: what for name, tensor in tensors if (what := _not_finite(tensor))}
    found: dict[str, str] = {}
    for node in all_nodes(model.graph) if held else ():
        for index, name in enumerate(node.input):
            is_factor = node.op_type in WEIGHTED and index < 2
            if name in held and (is_factor or held[name] != INFINITY):
                found.setdefault(label(node), f"{held[name]} in {name}")
    return found


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """``graph`` and every subgraph in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(subgraph)


def _not_finite(tensor: TensorProto) -> str:
    """What the tensor holds that is no number; nothing for a sound one."""
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    try:
        if not onnx.TensorProto.DataType.Name(tensor.data_type).startswith(FLOATS):
            return ""
        values = onnx.numpy_helper.to_array(tensor)
    except ValueError:  # an unknown type, or more or less data than the shape says
        return "unreadable data"
    if np.isfinite(values).all():
        return ""
    return "NaN" if np.isnan(values).any() else INFINITY


def drop_initializer_inputs(model: ModelProto) -> None:
    """Take weights out of the list of inputs, where files below IR 4 had to name them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) != len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)


def fix_shapes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give inputs fixed shapes; axes of the same name follow everywhere.

    Raises:
        InputError: No such input, another rank, or another size where the model has a fixed one.
    """
    onnx = require("onnx", extra="convert")
    inputs = {value.name: value for value in model.graph.input}
    named: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise InputError(
                f"the model has no input {name!r} to give a shape to",
                hint=f"it takes {', '.join(inputs)}",
            )
        dims = inputs[name].type.tensor_type.shape.dim
        if len(dims) != len(shape) or any(
            d.dim_value not in (0, size) for d, size in zip(dims, shape, strict=True)
        ):
            raise InputError(
                f"input {name!r} has shape {tensor_spec(inputs[name]).shape_text}, "
                f"which can not become ({', '.join(map(str, shape))})"
            )
        for dim, size in zip(dims, shape, strict=True):
            if dim.dim_param and named.setdefault(dim.dim_param, size) != size:
                raise InputError(
                    f"axis {dim.dim_param!r} can not be both {named[dim.dim_param]} and {size}"
                )
            dim.dim_value = size
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]
    # What was inferred for the dynamic shape is now too wide, or wrong.
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value, new in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(new)


def batch_shapes(model: ModelProto, batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes that fix the first axis, and every axis of the same name, of inputs to ``batch``.

    An input with another dynamic axis is left out: its shape has to be given in full.
    """
    first = [v.type.tensor_type.shape.dim[0] for v in model.graph.input if _rank(v)]
    names = {dim.dim_param for dim in first if dim.dim_param}
    shapes = {}
    for value in model.graph.input:
        dims = [
            batch if not d.dim_value and (axis == 0 or d.dim_param in names) else d.dim_value
            for axis, d in enumerate(value.type.tensor_type.shape.dim)
        ]
        if all(dims):
            shapes[value.name] = tuple(dims)
    return shapes


def keep_signature(model: ModelProto, original: ModelProto) -> None:
    """Give inputs and outputs back their axis names, which optimizers rename or lose."""
    by_name = {value.name: value for value in (*original.graph.input, *original.graph.output)}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in by_name:
            value.CopyFrom(by_name[value.name])


def name_nodes(model: ModelProto) -> None:
    """Give every node of the main graph a name of its own, by which a report can speak of it."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)


def raise_opset(model: ModelProto, opset: int) -> ModelProto:
    """The model in a newer opset.

    Raises:
        ModelError: There is no conversion for one of its operators.
    """
    onnx = require("onnx", extra="convert")
    try:
        converted: ModelProto = onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # the C++ side raises RuntimeError, ConvertError and others
        raise ModelError(
            f"opset {opset_of(model)} can not be raised to {opset}: {_first_line(error)}"
        ) from error
    return converted


def pin_ir(model: ModelProto, highest: int) -> None:
    """Write the IR version that the opset needs, or the model's own, but not above ``highest``."""
    onnx = require("onnx", extra="convert")
    needed = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    if needed > highest:
        raise ModelError(
            f"opset {opset_of(model)} needs IR version {needed}, the device takes {highest}",
            hint="export the model with an older opset",
        )
    model.ir_version = max(needed, min(model.ir_version, highest))


def tensor_specs(values: Iterable[ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(tensor_spec(value) for value in values)


def tensor_spec(value: ValueInfoProto) -> TensorSpec:
    """Describe a graph input or output; an axis without a name gets one."""
    onnx = require("onnx", extra="convert")
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"{value.name!r} is no tensor; sequences and maps are not supported")
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError as error:
        raise ModelError(f"{value.name!r} has the unknown type {tensor.elem_type}") from error
    if tensor.elem_type == onnx.TensorProto.STRING:
        dtype = "string"
    return TensorSpec(
        name=value.name,
        dtype=dtype,
        shape=tuple(_dim(value.name, axis, d) for axis, d in enumerate(tensor.shape.dim)),
    )


def _domain(name: str) -> str:
    return "" if name in STANDARD_DOMAINS else name


def _dim(name: str, axis: int, dim: TensorShapeProto.Dimension) -> Dim:
    return dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"{name}_axis{axis}"


def _rank(value: ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

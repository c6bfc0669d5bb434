"""Nodes that ONNX Runtime has no kernel for, or gives to another processor than the one meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.core.contracts import Finding
from edge.core.lazy import require
from edge.core.profile import DeviceProfile

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

EXTRA = "convert"
CPU = "CPUExecutionProvider"
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def fallback_findings(path: Path, profile: DeviceProfile) -> list[Finding]:
    """Nodes that stay on the CPU of a device whose GPU is meant; nothing where the CPU is."""
    device = str(profile.runtimes.options.get("onnxruntime", {}).get("device", "cpu")).lower()
    provider = PROVIDERS.get(device)
    if provider is None:
        return []
    onnxruntime = require("onnxruntime", extra=EXTRA)
    if provider not in onnxruntime.get_available_providers():
        return [
            Finding(
                "info",
                f"{profile.name} runs this on {device}, which is not here: the CPU was asked",
                hint="check again on the device to see which nodes fall back to its CPU",
            )
        ]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider, CPU])
    except Exception as error:  # pybind's exceptions share no base but Exception
        return [Finding("error", f"ONNX Runtime can not load it on {device}: {error}")]
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before 1.24
        return []
    parts = [p for p in session.get_provider_graph_assignment_info() if p.ep_name == CPU]
    nodes = tuple(node.name or node.op_type for part in parts for node in part.get_nodes())
    if not nodes:
        return []
    return [
        Finding("warning", f"{len(nodes)} nodes fall back from {device} to the CPU", nodes=nodes)
    ]


def without_kernel(path: Path, error: BaseException | None) -> tuple[str, ...]:
    """Names of nodes whose operator, in its version and for its types, the CPU has no kernel for.

    ``error``, which the engine gave up with, names the first of them.
    """
    if "Could not find an implementation" not in str(error):
        return ()
    onnx = require("onnx", extra=EXTRA)
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", extra=EXTRA)
    kernels: dict[tuple[str, str], list[Any]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == CPU:
            kernels.setdefault((kernel.domain, kernel.op_name), []).append(kernel)
    model: ModelProto = onnx.load_model(path)
    versions = {_domain(opset.domain): opset.version for opset in model.opset_import}
    inferred = onnx.shape_inference.infer_shapes(model)
    typed = list(_typed_nodes(inferred.graph, {}))
    own = {node.name for node, _ in typed}  # the engine has renamed those of branches it took out
    named = [name for name in re.findall(r"node with name '([^']+)'", str(error)) if name in own]
    missing = (node for node, types in typed if not _has_kernel(node, types, kernels, versions))
    return tuple(dict.fromkeys([*named, *(node.name or node.output[0] for node in missing)]))


def _has_kernel(
    node: NodeProto,
    types: Mapping[str, int],
    kernels: Mapping[tuple[str, str], list[Any]],
    versions: Mapping[str, int],
) -> bool:
    onnx = require("onnx", extra=EXTRA)
    domain = _domain(node.domain)
    if domain or not onnx.defs.has(node.op_type, versions.get(domain, 1), domain):
        return True  # what the engine adds itself, it has kernels for
    if node.op_type == "Constant":
        return True  # becomes a weight
    schema = onnx.defs.get_schema(node.op_type, versions[domain], domain)
    if schema.has_function or schema.has_context_dependent_function:
        return True  # it is computed through others
    given = {
        formal.type_str: f"tensor({_type_name(types[name])})"
        for formal, name in zip(schema.inputs, node.input, strict=False)
        if name in types
    }
    return any(
        kernel.version_range[0] <= schema.since_version <= kernel.version_range[1]
        and all(
            given.get(name, kinds[0]) in kinds for name, kinds in kernel.type_constraints.items()
        )
        for kernel in kernels.get((domain, node.op_type), [])
    )


def _typed_nodes(
    graph: GraphProto, outer: Mapping[str, int]
) -> Iterator[tuple[NodeProto, Mapping[str, int]]]:
    """Nodes, those of branches too, each with the types of all values around it."""
    types = {**outer, **{tensor.name: tensor.data_type for tensor in graph.initializer}}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        yield node, types
        for attribute in node.attribute:
            for branch in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _typed_nodes(branch, types)


def _type_name(data_type: int) -> str:
    """As the engine writes it; halves count as floats, which it casts them to."""
    onnx = require("onnx", extra=EXTRA)
    name = str(onnx.TensorProto.DataType.Name(data_type)).lower()
    return "float" if name == "float16" else name


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name

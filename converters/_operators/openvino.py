"""Nodes that OpenVINO can not import, that a device refuses, or that run in a slow kernel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edge.core.contracts import Finding
from edge.core.lazy import require
from edge.core.profile import DeviceProfile

EXTRA = "convert"
CPU = "CPU"

_NOT_IMPORTED = ("ONNXFrameworkNode", "NotSupportedONNXNode")


def not_imported(path: Path, error: BaseException | None) -> tuple[str, ...]:
    """Names of the nodes that have no counterpart.

    ``error``, which the import ended with, names those of branches, and operators in general.
    """
    named = re.findall(r"ONNX node '<Node\(\w+\): ([^>]+)>'", str(error))
    frontend = require("openvino.frontend", extra=EXTRA).FrontEndManager().load_by_framework("onnx")
    try:
        model = frontend.convert_partially(frontend.load(str(path)))
    except Exception:  # a graph it can not read at all; the import itself says why
        return tuple(named)
    ops = (op for op in model.get_ops() if op.get_type_name() in _NOT_IMPORTED)
    return tuple(dict.fromkeys([*(op.get_friendly_name() for op in ops), *named]))


def device_findings(model: Any, profile: DeviceProfile) -> list[Finding]:
    """What the profile's device says to an imported model, where it is on this machine."""
    core = require("openvino", extra=EXTRA).Core()
    found = _type_findings(model)
    device = str(profile.runtimes.options.get("openvino", {}).get("device", CPU)).upper()
    if device.partition(".")[0] not in {name.partition(".")[0] for name in core.available_devices}:
        missing = f"the operators were imported, but there is no {device} here to ask about them"
        hint = "check again on a machine that has one"
        return [*found, Finding("info", missing, hint=hint)]
    return [*found, *(_slow_kernels if device == CPU else _refused)(core, model, device)]


def _type_findings(model: Any) -> list[Finding]:
    """Text, which crashes it, and float64, which it computes in float32 and says nothing of."""
    types: dict[str, list[str]] = {}
    for op in model.get_ops():
        if op.get_type_name() not in ("Constant", "Result") and op.get_output_size():
            kind = op.get_output_element_type(0).get_type_name()
            types.setdefault(kind, []).append(op.get_friendly_name())
    found = []
    if "string" in types:
        hint = "take the engine onnxruntime"
        text = tuple(types["string"])
        found.append(Finding("error", "text is not run through OpenVINO", hint=hint, nodes=text))
    if "f64" in types:
        wide = tuple(types["f64"])
        found.append(Finding("warning", "float64 is computed in float32", nodes=wide))
    return found


def _refused(core: Any, model: Any, device: str) -> list[Finding]:
    try:
        taken = core.query_model(model, device)
    except Exception as error:  # RuntimeError, or what a plugin throws
        return [Finding("error", f"{device} does not take the model: {_first_line(error)}")]
    names = (op.get_friendly_name() for op in model.get_ops())
    refused = tuple(name for name in names if name not in taken)
    if not refused:
        return []
    return [Finding("error", f"{device} has no kernel for {len(refused)} nodes", nodes=refused)]


def _slow_kernels(core: Any, model: Any, device: str) -> list[Finding]:
    """Compile for the CPU, whose plugin computes what it has no kernel for by plain loops."""
    try:
        ops = core.compile_model(model, device).get_runtime_model().get_ops()
    except Exception as error:  # RuntimeError, or what a plugin throws
        return _refused(core, model, device) or [
            Finding("error", f"{device} can not compile the model: {_first_line(error)}")
        ]
    slow = [
        op.get_rt_info()["originalLayersNames"].astype(str)
        for op in ops
        if op.get_rt_info()["layerType"].astype(str) == "Reference"
    ]
    if not slow:
        return []
    message = f"{device} computes {len(slow)} nodes by plain loops, for want of a kernel"
    return [Finding("warning", message, nodes=tuple(slow))]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return (telling or [type(error).__name__])[0]

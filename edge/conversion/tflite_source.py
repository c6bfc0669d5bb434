"""TensorFlow Lite models, which OpenVINO's own frontend reads; no other engine here does."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.conversion.source import PreparedSource
from edge.core.contracts import shape_findings
from edge.core.errors import InputError, ModelError
from edge.core.lazy import require
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.core.profile import DeviceProfile

SUFFIX = ".tflite"
ENGINE = "openvino"
HINT = "convert it first: python -m tf2onnx.convert --tflite IN.tflite --output OUT.onnx"


def prepare_tflite(
    source: Path,
    profile: DeviceProfile,
    into: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int | None,
) -> PreparedSource:
    """Check that OpenVINO imports the file, and lay it into ``into`` as it is.

    Raises:
        ModelError: It is damaged, or the device has no OpenVINO.
        InputError: Shapes were given, which are fixed in these files.
    """
    if ENGINE not in profile.runtimes.order:
        raise ModelError(
            f"{source.name} is a TensorFlow Lite model, which OpenVINO alone reads here; "
            f"{profile.name} has {', '.join(profile.runtimes.order)}",
            hint=HINT,
        )
    if shapes or batch:
        raise InputError("the shapes of a TensorFlow Lite model are fixed in its file", hint=HINT)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ModelError(f"can not read {source}: {error.strerror}") from error
    inputs, outputs, operators = _described(source, data)
    path = into / f"model{SUFFIX}"
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return PreparedSource(
        source=source,
        path=path,
        digest=digest,
        sha256=digest,
        size_bytes=len(data),
        inputs=inputs,
        outputs=outputs,
        opset=0,
        ir=0,
        ops=operators,
        findings=tuple(shape_findings(inputs, profile)),
    )


def _described(
    source: Path, data: bytes
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, int]]:
    openvino = require("openvino", extra="convert")
    # Identifier of the flatbuffer; the frontend itself reads past the end of what is none.
    if data[4:8] != b"TFL3":
        raise ModelError(f"{source.name} is no TensorFlow Lite model ({len(data)} bytes)")
    try:
        model = openvino.Core().read_model(source)
        operators: dict[str, int] = {}
        for node in model.get_ordered_ops():
            name = node.get_type_name()
            operators[name] = operators.get(name, 0) + 1
        return _specs(model.inputs), _specs(model.outputs), operators
    except Exception as error:  # RuntimeError and the frontend's own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"OpenVINO can not import {source.name}: {lines[-1]}", hint=HINT
        ) from error


def _specs(ports: list[Any]) -> tuple[TensorSpec, ...]:
    np = require("numpy", extra="convert")
    return tuple(
        TensorSpec(
            port.get_any_name(),
            np.dtype(port.get_element_type().to_dtype()).name,
            tuple(
                dim.get_length() if dim.is_static else f"{port.get_any_name()}_axis{axis}"
                for axis, dim in enumerate(port.get_partial_shape())
            ),
        )
        for port in ports
    )

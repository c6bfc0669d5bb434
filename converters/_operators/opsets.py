"""Opset and IR version of a graph, and what a device takes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.core.errors import ModelError
from edge.core.lazy import require
from edge.core.profile import DeviceProfile

if TYPE_CHECKING:
    from onnx import ModelProto


def opset_of(model: ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def pin(model: ModelProto, profile: DeviceProfile) -> None:
    """Keep to the opset and IR version of the profile, whatever the tools here write.

    Raises:
        ModelError: The graph needs a later one.
    """
    onnx = require("onnx", extra="convert")
    opset, needed = opset_of(model), onnx.helper.find_min_ir_version_for(model.opset_import, True)
    if opset > profile.onnx.opset or needed > profile.onnx.ir:
        raise ModelError(
            f"the result is in opset {opset}, IR {needed}; {profile.name} takes up to opset "
            f"{profile.onnx.opset}, IR {profile.onnx.ir}"
        )
    model.ir_version = max(needed, min(model.ir_version, profile.onnx.ir))

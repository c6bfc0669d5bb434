"""Import an SDK when it is used, or say how to get it."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from edge.core.errors import MissingDependencyError

DISTRIBUTION = "edge-runtime"

REPORTERS = {"openvino": "openvino_telemetry", "nncf": "openvino_telemetry"}
"""Optional packages through which an SDK, by its import alone, reports over the network that it is
used and leaves an identity in the home folder. The SDK does without."""

SILENCE = {"onnxruntime": "ORT_DISABLE_TELEMETRY"}
"""Variables that keep an SDK from reporting by itself: ONNX Runtime's wheels for Linux do, to
Microsoft (seen with 1.31, https://github.com/microsoft/onnxruntime/pull/27379)."""


def require(module: str, *, extra: str) -> Any:
    """Import ``module`` and return it.

    Args:
        module: Dotted name, for example ``onnxruntime.quantization``.
        extra: The extra of this project that brings it.
    Raises:
        MissingDependencyError: It is not installed, or it is and fails to import.
    """
    package = module.partition(".")[0]
    if package in SILENCE:
        os.environ.setdefault(SILENCE[package], "1")
    reporter = REPORTERS.get(package)
    if reporter:
        sys.modules.setdefault(reporter, None)  # type: ignore[arg-type]  # "can not be imported"
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module} can not be imported: {error}",
            hint=f"pip install '{DISTRIBUTION}[{extra}]'",
        ) from error

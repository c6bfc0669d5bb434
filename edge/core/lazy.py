"""Import an SDK when it is used, or say how to get it."""

from __future__ import annotations

import importlib
from typing import Any

from edge.core.errors import MissingDependencyError

DISTRIBUTION = "edge-runtime"


def require(module: str, *, extra: str) -> Any:
    """Import ``module`` and return it.

    Args:
        module: Dotted name, for example ``onnxruntime.quantization``.
        extra: The extra of this project that brings it.
    Raises:
        MissingDependencyError: It is not installed, or it is and fails to import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module} can not be imported: {error}",
            hint=f"pip install '{DISTRIBUTION}[{extra}]'",
        ) from error

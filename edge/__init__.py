"""Convert a model for a small device, prove it, serve it there, and know what it costs."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # type checkers know the name; importing typing would take most of the time

if TYPE_CHECKING:
    from edge.conversion import convert as convert
    from edge.core.errors import EdgeError as EdgeError
    from edge.host import Model as Model
    from edge.host import Runtime as Runtime
    from edge.host import load as load

__version__ = "0.1.0"

# Loaded on first use: `import edge` must cost milliseconds on a device and load no numpy.
_HOMES = {
    "EdgeError": "edge.core.errors",
    "Model": "edge.host",
    "Runtime": "edge.host",
    "convert": "edge.conversion",
    "load": "edge.host",
}
__all__ = ["EdgeError", "Model", "Runtime", "__version__", "convert", "load"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""What the device tells an operator over MQTT: its state, its models, what they cost."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in `edge.host`: who prints a figure needs no connection

if TYPE_CHECKING:
    from edge.telemetry.publisher import Publisher as Publisher
    from edge.telemetry.publisher import publish as publish


def __getattr__(name: str) -> object:
    if name not in ("Publisher", "publish"):
        raise AttributeError(f"module 'edge.telemetry' has no attribute {name!r}")
    return getattr(importlib.import_module("edge.telemetry.publisher"), name)

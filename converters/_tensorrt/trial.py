"""Asks TensorRT-RTX, which parses and builds without a GPU, what it makes of a graph.

It knows neither SM 8.7 (Orin) nor SM 11.0 (Thor), so its engine is no Jetson's; but its parser is
that of TensorRT, and what is strongly typed and builds for SM 8.6 is sound.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from edge.core.build import BuildPlan, ShapeRange
from edge.core.lazy import require

MODULE = "tensorrt_rtx"
AMPERE = "SM86"
CAPABILITIES = {"fp8": "SM89"}
"""The GPU that a precision begins with, where it is a later one."""


class Trial(msgspec.Struct, frozen=True):
    """What came of it: an engine, or an ``error`` and the ``nodes`` that it names."""

    version: str
    engine: bytes = b""
    error: str = ""
    nodes: tuple[str, ...] = ()


def is_possible() -> bool:
    return importlib.util.find_spec(MODULE) is not None


def version() -> str:
    return metadata.version("tensorrt-rtx")


def parse(path: Path) -> Trial:
    """What the parser says to the graph at ``path``; an empty ``error`` if it takes every node."""
    trt = require(MODULE, extra="convert")
    return _parsed(trt, trt.Builder(_logger(trt, [])), path)[0]


def try_out(path: Path, plan: BuildPlan, capability: str = AMPERE) -> Trial:
    """Parse the graph at ``path`` and build it for an NVIDIA GPU of ``capability``."""
    trt = require(MODULE, extra="convert")
    heard: list[str] = []
    builder = trt.Builder(_logger(trt, heard))
    parsed, network = _parsed(trt, builder, path)
    if parsed.error:
        return parsed
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    if plan.shapes:
        config.add_optimization_profile(_profile(builder, plan.shapes))
    built = builder.build_serialized_network(network, config)
    if built is None:
        return Trial(version(), error="; ".join(heard) or "it builds no engine")
    return Trial(version(), bytes(built))


def _parsed(trt: Any, builder: Any, path: Path) -> tuple[Trial, Any]:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    if parser.parse_from_file(str(path)):
        return Trial(version()), network
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    nodes = tuple(dict.fromkeys(error.node_name() for error in errors if error.node_name()))
    what = "; ".join(dict.fromkeys(error.desc() for error in errors)) or "no reason is given"
    return Trial(version(), error=what, nodes=nodes), network


def _profile(builder: Any, shapes: dict[str, ShapeRange]) -> Any:
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, shape.min, shape.opt, shape.max)
    return profile


def _logger(trt: Any, heard: list[str]) -> Any:
    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                heard.append(message.splitlines()[0])

    return Listener()

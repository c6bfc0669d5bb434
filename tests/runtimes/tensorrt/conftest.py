"""Variants for TensorRT, and worlds to run them in."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_cuda
import msgspec
import onnx
import pytest
from fake_world import VERSIONS, World
from onnx import helper
from tiny_product import WEIGHTS, product

from edge.core.build import BuildPlan, ShapeRange
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import DeviceProfile, load_profile
from edge.core.tensor import TensorSpec
from runtimes._tensorrt import graphs
from runtimes.tensorrt import TensorRtBackend

Enter = Callable[..., World]


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Enter]:
    """Puts the process on a machine with an NVIDIA GPU; its cache is a folder of the test."""
    worlds: list[World] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def enter(version: str = "10.3", **what: Any) -> World:
        world = World(version, **what)
        world.library = fake_cuda.Library(world)
        for name, module in world.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(graphs, "_library", lambda: world.library)
        worlds.append(world)
        return world

    yield enter
    for world in worlds:
        assert world.depth == 0, "a context was left on the stack"


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backend() -> TensorRtBackend:
    return TensorRtBackend()


@pytest.fixture(scope="session")
def orin() -> DeviceProfile:
    return load_profile("jetson-orin-nano-8gb")


@pytest.fixture
def make(tmp_path: Path, version: str) -> Callable[..., tuple[Variant, Path]]:
    """Lays down a variant with its plan, as the converter does; weakly typed for TensorRT 8."""

    def make(
        model: onnx.ModelProto | None = None, name: str = "variant", **plan: Any
    ) -> tuple[Variant, Path]:
        model = model or product(WEIGHTS)
        folder = tmp_path / name
        folder.mkdir()
        is_typed = not version.startswith("8.")
        shapes = {"x": ShapeRange((1, 3), (1, 3), (8, 3))}
        plan = {"shapes": shapes, "is_strongly_typed": is_typed, "flags": ("fp16",), **plan}
        data = {
            "model.onnx": model.SerializeToString(),
            "plan.json": msgspec.json.encode(BuildPlan(**plan)),
        }
        for file, content in data.items():
            (folder / file).write_bytes(content)
        files = tuple(
            FileEntry(file, hashlib.sha256(content).hexdigest(), len(content))
            for file, content in data.items()
        )
        io = model.graph
        inputs, outputs = (tuple(_spec(value) for value in v) for v in (io.input, io.output))
        variant = Variant(
            "tensorrt-fp16", "tensorrt", "fp16", files, inputs, outputs, {"device": "gpu"}
        )
        return variant, folder

    return make


def _spec(value: Any) -> TensorSpec:
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    dims = (d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
    return TensorSpec(value.name, kind, tuple(dims))

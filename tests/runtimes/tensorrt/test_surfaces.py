"""The fake offers nothing that the real bindings do not, by name and by parameter."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
from pathlib import Path
from types import ModuleType

import fake_tensorrt
import pytest
from fake_world import SURFACES, VERSIONS, World, surface

RECORDED = [version for version in VERSIONS if version != "8.5"]
NOT_LISTED = {
    "ILogger": {"Severity", "is_set_up"},
    "IHostMemory": set(dir(bytes)),
    "IOutputAllocator": {"is_set_up"},
}
"""What the bindings' ``dir`` does not tell, or the fake has of Python's own."""


def _recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", SURFACES / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", RECORDED)
@pytest.mark.parametrize("name", fake_tensorrt.CLASSES)
def test_every_name_and_parameter_of_the_fake_is_one_of_the_bindings(
    name: str, version: str
) -> None:
    offered = surface(version)[name]
    for member, what in vars(fake_tensorrt.CLASSES[name]).items():
        if member.startswith("_") or member in {"world", *NOT_LISTED.get(name, ())}:
            continue
        assert member in offered, f"{name}.{member} is not in TensorRT {version}"
        if callable(what) and isinstance(offered[member], list):
            parameters = list(inspect.signature(what).parameters)[1:]
            assert parameters == offered[member], f"{name}.{member} of TensorRT {version}"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_world_has_what_its_version_has(version: str) -> None:
    module = World(version).modules()["tensorrt"]
    for name in ("IProgressMonitor", "OnnxParserRefitter"):
        assert hasattr(module, name) == (version != "8.5")
    assert hasattr(module.BuilderFlag, "INT8") == (version != "11.4")
    flags = module.NetworkDefinitionCreationFlag
    assert hasattr(flags, "EXPLICIT_BATCH") == (version != "11.4")
    assert hasattr(flags, "STRONGLY_TYPED") == (version != "8.5")


@pytest.mark.parametrize("version", RECORDED)
def test_recorded_surfaces_are_those_of_the_real_bindings(version: str) -> None:
    folder = os.environ.get("EDGE_TENSORRT_BINDINGS")
    if not folder:
        pytest.skip("EDGE_TENSORRT_BINDINGS names no folder with wheels of tensorrt-cu*-bindings")
    wheels = [p for p in Path(folder).glob("tensorrt_cu*.whl") if f"-{version}." in p.name]
    assert wheels, f"no bindings of TensorRT {version} in {folder}"
    recorded = json.loads((SURFACES / f"tensorrt-{version}.json").read_text())
    assert _recorder().surface(wheels[0]) == recorded

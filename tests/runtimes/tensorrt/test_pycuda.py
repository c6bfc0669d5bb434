"""What is used of pycuda, and offered by its fake, is in pycuda's own source."""

from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import fake_cuda
import pytest
from fake_world import SURFACES, World

from runtimes import _tensorrt

LISTED = json.loads((SURFACES / "pycuda-2026.1.json").read_text())
NAMES: dict[str, str] = LISTED["names"]
PARAMETERS: dict[str, list[str]] = LISTED["parameters"]
CLASSES = (fake_cuda.Device, fake_cuda.Context, fake_cuda.Stream, fake_cuda.Allocation)


def test_the_fake_offers_only_what_is_listed() -> None:
    driver = fake_cuda.module(World())
    offered = {name for name in vars(driver) if not name.startswith("_")}
    assert offered == {name for name in NAMES if "." not in name}
    for name, parameters in PARAMETERS.items():
        assert list(inspect.signature(getattr(driver, name)).parameters) == parameters


def test_all_that_the_runtime_uses_is_listed() -> None:
    (folder,) = _tensorrt.__path__
    text = "".join(path.read_text() for path in Path(folder).glob("*.py"))
    used = set(re.findall(r"(?:_|\b)cuda\.([A-Za-z_]+(?:\.[A-Za-z_]+)?)", text))
    assert {"init", "mem_alloc", "Context.pop"} <= used, "the pattern finds too little"
    assert used <= set(NAMES)


@pytest.mark.parametrize("kind", CLASSES)
def test_methods_of_the_fake_are_listed(kind: Any) -> None:
    own = {"by_handle", "queue", "world"}
    for name, what in vars(kind).items():
        if not name.startswith("_") and name not in own and callable(what):
            assert f"{kind.__name__}.{name}" in NAMES


def test_listed_names_are_in_the_source_of_pycuda() -> None:
    folder = os.environ.get("EDGE_PYCUDA_SOURCE")
    if not folder:
        pytest.skip("EDGE_PYCUDA_SOURCE names no folder with the source of pycuda 2026.1")
    source = (Path(folder) / LISTED["file"]).read_text()
    for name, quote in NAMES.items():
        assert quote in source, name
    for name, parameters in PARAMETERS.items():
        definition = source.split(NAMES[name], 1)[1].split(";", 1)[0]
        found = [name for name in re.findall(r'"(\w+)"', definition) if name != "C"]
        assert found == parameters, name

"""A GPU, ``pycuda`` and ``tensorrt`` that record what is asked of them, in any of their versions.

An engine is the ONNX graph it was built from, and ONNX Runtime computes it. What is queued on a
stream happens when the stream is synchronized, so that a result that is read too early is not
there. Names that a version of TensorRT does not have, by the recorded surface, are not here either.
"""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SURFACES = Path(__file__).parent
VERSIONS = ("8.5", "10.3", "10.13", "10.16", "11.4")

LACKING = {
    "NetworkDefinitionCreationFlag": ["STRONGLY_TYPED"],
    "BuilderFlag": ["STRIP_PLAN", "REFIT_IDENTICAL", "BF16", "FP8", "INT4"],
    "IProgressMonitor": None,
    "OnnxParserRefitter": None,
    "IBuilderConfig": ["progress_monitor"],
    "ParserError": ["node_name"],
    "DataType": ["INT64", "BF16", "FP8", "INT4", "UINT8"],
}
"""What TensorRT 8.5 lacks of 10.3, after its documentation; there are no bindings to record."""


def surface(version: str) -> dict[str, Any]:
    """Class -> name -> parameters, or what else it is."""
    recorded = "10.3" if version == "8.5" else version
    found: dict[str, Any] = json.loads((SURFACES / f"tensorrt-{recorded}.json").read_text())
    if version == "8.5":
        for name, lost in LACKING.items():
            kept = {} if lost is None else {k: v for k, v in found[name].items() if k not in lost}
            found[name] = kept
        found = {name: members for name, members in found.items() if members}
        found["__version__"] = "8.5.2"
    return found


class World:
    """One machine; tests set what it is like and look at what was asked of it."""

    def __init__(self, version: str = "10.3", *, is_integrated: bool = True) -> None:
        self.version = version
        self.surface = surface(version)
        self.is_integrated = is_integrated
        self.capability = (8, 7)
        self.driver = 12060
        self.memory_bytes = 8 * 2**30
        self.dla_cores = 0
        self.failing_builds = 0
        self.raises_memory_error = False
        self.refused_ops: set[str] = set()
        self.can_capture = True
        self.can_copy_in_capture = True
        self.fails_to_run = False
        self.is_broken = False
        self.most_allocations = 10**6
        self.calls: list[str] = []
        self.configs: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.retained = 0
        self._addresses = itertools.count(0x1000, 0x100000)
        self._thread = threading.local()
        self.sized_by_data: dict[str, int] = {}
        self.on_host: set[str] = set()
        self.enums: dict[str, Any] = {}
        self.classes: dict[str, Any] = {}
        self.parser_error: Any = None

    @property
    def depth(self) -> int:
        """How many contexts the calling thread has pushed."""
        return getattr(self._thread, "depth", 0)

    @depth.setter
    def depth(self, value: int) -> None:
        self._thread.depth = value

    def note(self, call: str) -> None:
        self.calls.append(call)

    def on_gpu(self, call: str) -> None:
        """A call that needs a context to be current."""
        assert self.depth > 0, f"{call} without a current context"
        self.note(call)

    def count(self, call: str) -> int:
        return self.calls.count(call)

    def keep(self, array: Any) -> int:
        address = next(self._addresses)
        self.memory[address] = array
        return address

    def bytes_at(self, address: int, size: int) -> Any:
        """``size`` bytes that begin at ``address``, to be read or written."""
        memory = self.memory[address]
        assert size <= memory.nbytes, f"{size} bytes of {memory.nbytes} at {address:#x}"
        return memory.view(np.uint8).reshape(-1)[:size]

    def trimmed(self, name: str, array: Any) -> Any:
        """An output whose size only the data tells: so many of its first rows."""
        return array[: self.sized_by_data[name]] if name in self.sized_by_data else array

    def modules(self) -> dict[str, ModuleType]:
        """What to put into ``sys.modules``."""
        import fake_cuda
        import fake_tensorrt

        pycuda = ModuleType("pycuda")
        driver = fake_cuda.module(self)
        pycuda.driver = driver  # type: ignore[attr-defined]
        return {"pycuda": pycuda, "pycuda.driver": driver, "tensorrt": fake_tensorrt.module(self)}

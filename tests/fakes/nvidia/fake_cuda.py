"""``pycuda.driver`` and the functions of ``libcuda`` for graphs, on a world that records them.

The names and parameters are those of pycuda 2026.1 (``src/wrapper/wrap_cudadrv.cpp``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from fake_world import World


class Error(Exception):
    """Of pycuda: the base of its errors has no base but Exception."""


class LogicError(Error):
    pass


class MemoryError(Error):  # noqa: A001
    """Of the GPU: not Python's."""


class Stream:
    """What is queued on it happens at ``synchronize``, or is captured into a graph."""

    by_handle: dict[int, Stream] = {}  # noqa: RUF012

    def __init__(self, world: World) -> None:
        world.on_gpu("Stream")
        self._world = world
        self.queued: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.handle = id(self)
        self.by_handle[self.handle] = self

    def queue(self, work: Callable[[], None]) -> None:
        (self.queued if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        self._world.on_gpu("Stream.synchronize")
        if self._world.is_broken:
            raise LogicError("cuStreamSynchronize failed: an illegal memory access")
        assert self.captured is None, "synchronized while it was captured"
        queued, self.queued = self.queued, []
        for work in queued:
            work()


class Allocation:
    """Memory that both sides see, as ``numpy`` takes it; pinned or mapped."""

    def __init__(self, world: World, size: int, flags: int) -> None:
        self._world, self._flags = world, flags
        self._bytes = bytearray(size)
        self.address = world.keep(np.frombuffer(self._bytes, np.uint8)) if flags else 0
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 3,
        }

    def get_device_pointer(self) -> int:
        assert self._flags, "not mapped"
        return self.address

    def free(self) -> None:
        self._world.on_gpu("HostAllocation.free")
        self._world.memory.pop(self.address, None)


class DeviceAllocation:
    def __init__(self, world: World, size: int) -> None:
        self._world = world
        self._address = world.keep(np.zeros(size, np.uint8))

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._world.on_gpu("DeviceAllocation.free")
        del self._world.memory[self._address]


class Context:
    world: World

    def push(self) -> None:
        self.world.depth += 1

    @classmethod
    def pop(cls) -> None:
        assert cls.world.depth > 0, "no context to pop"
        cls.world.depth -= 1

    def detach(self) -> None:
        self.world.retained -= 1
        assert self.world.retained >= 0


class Device:
    world: World

    def __init__(self, number: int) -> None:
        if self.world.memory_bytes == 0:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        self._number = number

    def retain_primary_context(self) -> Context:
        self.world.retained += 1
        kind = type("PrimaryContext", (Context,), {"world": self.world})
        return kind()

    def get_attribute(self, attribute: str) -> int:
        return {"INTEGRATED": int(self.world.is_integrated)}[attribute]

    def total_memory(self) -> int:
        return self.world.memory_bytes

    def compute_capability(self) -> tuple[int, int]:
        return self.world.capability

    def name(self) -> str:
        return "Orin"


def module(world: World) -> ModuleType:
    driver: Any = ModuleType("pycuda.driver")

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        world.on_gpu("pagelocked_empty")
        flat = np.asarray(Allocation(world, shape * np.dtype(dtype).itemsize, mem_flags))
        return _typed(flat, dtype)

    def mem_get_info() -> tuple[int, int]:
        world.on_gpu("mem_get_info")
        held = sum(allocation.nbytes for allocation in world.memory.values())
        return world.memory_bytes - held, world.memory_bytes

    def mem_alloc(size: int) -> DeviceAllocation:
        world.on_gpu("mem_alloc")
        if world.count("mem_alloc") > world.most_allocations:
            raise MemoryError("cuMemAlloc failed: out of memory")
        return DeviceAllocation(world, size)

    def memcpy_htod_async(dest: Any, src: Any, stream: Any = None) -> None:
        world.on_gpu("memcpy_htod_async")
        if stream.captured is not None and not world.can_copy_in_capture:
            raise LogicError("cuMemcpyHtoDAsync failed: operation not permitted")
        stream.queue(lambda: _copy(world.bytes_at(int(dest), src.nbytes), src))

    def memcpy_dtoh_async(dest: Any, src: Any, stream: Any = None) -> None:
        world.on_gpu("memcpy_dtoh_async")
        stream.queue(lambda: _copy(dest, world.bytes_at(int(src), dest.nbytes)))

    driver.Error, driver.LogicError, driver.MemoryError = Error, LogicError, MemoryError
    driver.init = lambda: world.note("init")
    driver.Device = type("Device", (Device,), {"world": world})
    driver.Context = type("Context", (Context,), {"world": world})
    driver.Stream = lambda: Stream(world)
    driver.get_driver_version = lambda: world.driver
    driver.device_attribute = type("device_attribute", (), {"INTEGRATED": "INTEGRATED"})
    driver.host_alloc_flags = type("host_alloc_flags", (), {"DEVICEMAP": 2})
    driver.pagelocked_empty = pagelocked_empty
    driver.mem_alloc = mem_alloc
    driver.mem_get_info = mem_get_info
    driver.memcpy_htod_async = memcpy_htod_async
    driver.memcpy_dtoh_async = memcpy_dtoh_async
    return driver


def _typed(flat: Any, dtype: Any) -> Any:
    """The same memory in another type; ``base`` is the allocation, as pycuda has it."""
    allocation = flat.base
    size = flat.size // np.dtype(dtype).itemsize
    allocation.__array_interface__ |= {"shape": (size,), "typestr": np.dtype(dtype).str}
    typed = np.asarray(allocation)
    assert typed.base is allocation
    return typed


def _copy(target: Any, source: Any) -> None:
    target.view(np.uint8).reshape(-1)[...] = source.view(np.uint8).reshape(-1)


class Library:
    """The functions of ``libcuda.so.1`` for graphs; each gives 0, or what went wrong."""

    NOT_PERMITTED = 900

    def __init__(self, world: World) -> None:
        self._world = world
        self._graphs: dict[int, list[Callable[[], None]]] = {}

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:  # noqa: N802
        self._world.on_gpu("cuStreamBeginCapture")
        Stream.by_handle[stream.value].captured = []
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:  # noqa: N802
        found = Stream.by_handle[stream.value]
        captured, found.captured = found.captured, None
        if captured is None or not self._world.can_capture:
            return self.NOT_PERMITTED
        graph._obj.value = self._keep(captured)
        return 0

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:  # noqa: N802
        executable._obj.value = self._keep(self._graphs[graph.value])
        return 0

    def cuGraphLaunch(self, executable: Any, stream: Any) -> int:  # noqa: N802
        self._world.on_gpu("cuGraphLaunch")
        for work in self._graphs[executable.value]:
            Stream.by_handle[stream.value].queue(work)
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:  # noqa: N802
        del self._graphs[graph.value]
        return 0

    def cuGraphExecDestroy(self, executable: Any) -> int:  # noqa: N802
        del self._graphs[executable.value]
        return 0

    @property
    def alive(self) -> int:
        return len(self._graphs)

    def _keep(self, work: list[Callable[[], None]]) -> int:
        handle = max(self._graphs, default=0) + 1
        self._graphs[handle] = list(work)
        return handle

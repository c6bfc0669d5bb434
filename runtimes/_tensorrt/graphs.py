"""CUDA graphs by the driver's own functions, as pycuda (to 2026.1) has none for them.

A graph replays what was queued on a stream with one call, which saves most of what the CPU spends
on a small model. https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__GRAPH.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from edge.core.errors import EngineError

LIBRARY = "libcuda.so.1"
THREAD_LOCAL = 1
"""``CU_STREAM_CAPTURE_MODE_THREAD_LOCAL``: what other threads do meanwhile does not break it."""


class CudaGraph:
    """What ``queue`` puts on a stream, to be launched again and again.

    Raises:
        EngineError: Something in it can't be captured; the stream is usable again.
    """

    def __init__(self, stream: int, queue: Callable[[], None]) -> None:
        self._stream = ctypes.c_void_p(stream)
        self._graph = ctypes.c_void_p()
        self._executable = ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(THREAD_LOCAL))
        try:
            queue()
        finally:  # also after an error: a stream that still captures runs nothing
            status = _library().cuStreamEndCapture(self._stream, ctypes.byref(self._graph))
        _check("cuStreamEndCapture", status)
        try:
            _call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(self._executable),
                self._graph,
                ctypes.c_ulonglong(0),
            )
        finally:
            _call("cuGraphDestroy", self._graph)

    def launch(self) -> None:
        """Queue it on its stream."""
        _call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        if self._executable:
            _call("cuGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()


@cache
def _library() -> Any:
    return ctypes.CDLL(LIBRARY)


def _call(name: str, *arguments: Any) -> None:
    try:
        function = getattr(_library(), name)
    except (OSError, AttributeError) as error:
        raise EngineError(f"the CUDA driver has no {name}: {error}") from error
    _check(name, function(*arguments))


def _check(name: str, status: int) -> None:
    if status:
        raise EngineError(f"{name} failed with CUDA error {status}")

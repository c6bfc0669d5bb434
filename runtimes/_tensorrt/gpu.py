"""The GPU through pycuda: its primary context, which other users of the process share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge.core.errors import EngineError, UnavailableError
from edge.core.lazy import require
from edge.core.process import resident_bytes

EXTRA = "tensorrt"


class Gpu:
    """The first CUDA device. ``active`` makes it the current one of the calling thread.

    Raises:
        UnavailableError: There is none, or its driver does not start.
    """

    def __init__(self) -> None:
        self.cuda = require("pycuda.driver", extra=EXTRA)
        try:
            self.cuda.init()
            self._device = self.cuda.Device(0)
            self._context = self._device.retain_primary_context()
        except Exception as error:  # pycuda's LogicError, RuntimeError, MemoryError by cause
            raise UnavailableError(
                f"there is no CUDA device: {error}",
                hint="look at what nvidia-smi or tegrastats say",
            ) from error

    @contextmanager
    def active(self) -> Iterator[None]:
        """Whatever context the thread has otherwise comes back at the end.

        Raises:
            UnavailableError: Memory ran out; pycuda's ``MemoryError`` is not Python's.
            EngineError: CUDA failed in another way.
        """
        self._context.push()
        try:
            yield
        except self.cuda.MemoryError as error:
            raise UnavailableError(
                f"the GPU's memory ran out: {error}",
                hint="take fewer instances, or stop what else uses memory",
            ) from error
        except self.cuda.Error as error:
            raise EngineError(f"CUDA failed: {error}") from error
        finally:
            self.cuda.Context.pop()

    @property
    def is_integrated(self) -> bool:
        """Whether it shares the memory of the CPU, as on a Jetson."""
        return bool(self._device.get_attribute(self.cuda.device_attribute.INTEGRATED))

    @property
    def memory_bytes(self) -> int:
        return int(self._device.total_memory())

    def taken_bytes(self) -> int:
        """Memory of the device that somebody holds, less what is resident in this process.

        A GPU that shares the CPU's memory counts that in as well.
        """
        with self.active():
            free, total = self.cuda.mem_get_info()
        taken = int(total) - int(free)
        return taken - resident_bytes() if self.is_integrated else taken

    @property
    def facts(self) -> dict[str, str]:
        """What an engine is bound to: ``sm``, ``cuda``, ``gpu``."""
        major, minor = self._device.compute_capability()
        version = int(self.cuda.get_driver_version())
        return {
            "sm": f"{major}{minor}",
            "cuda": f"{version // 1000}.{version % 1000 // 10}",
            "gpu": str(self._device.name()),
        }

    def close(self) -> None:
        """Give the primary context back."""
        self._context.detach()

"""Memory that both the CPU and the GPU can get at, one buffer for each tensor.

On an integrated GPU both share one memory: a mapped buffer is written by the CPU and read by the
GPU, and nothing is copied. On a card, a pinned buffer is copied to and from one on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from edge.core.tensor import Array


class Buffer(ABC):
    """``host`` is flat; ``address`` is the GPU's. Both stay the same for its life."""

    host: Array
    address: int

    def write(self, array: Array) -> int:
        """Put ``array`` in, in the buffer's own type; gives its size in bytes."""
        view = self.host[: array.size]
        view[...] = array.reshape(-1)
        return int(view.nbytes)

    def read(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A copy of what is in it, which the caller owns."""
        array: Array = self.host[: prod(shape)].reshape(shape).astype(dtype, copy=True)
        return array

    @abstractmethod
    def to_device(self, size_bytes: int, stream: Any) -> None:
        """Queue the copy of the first ``size_bytes`` to the GPU, if there is one to make."""

    @abstractmethod
    def to_host(self, size_bytes: int, stream: Any) -> None:
        """Queue the copy from the GPU."""

    @abstractmethod
    def close(self) -> None:
        """Free it."""


class MappedBuffer(Buffer):
    def __init__(self, cuda: Any, elements: int, dtype: np.dtype[Any]) -> None:
        flags = cuda.host_alloc_flags.DEVICEMAP
        host: Any = cuda.pagelocked_empty(max(1, elements), dtype, mem_flags=flags)
        self.host, self._pages = host, host.base
        self.address = int(self._pages.get_device_pointer())

    def to_device(self, size_bytes: int, stream: Any) -> None:
        pass

    def to_host(self, size_bytes: int, stream: Any) -> None:
        pass

    def close(self) -> None:
        self._pages.free()


class CopiedBuffer(Buffer):
    def __init__(self, cuda: Any, elements: int, dtype: np.dtype[Any]) -> None:
        self._cuda = cuda
        host: Any = cuda.pagelocked_empty(max(1, elements), dtype)
        self.host, self._pages = host, host.base
        self._device = cuda.mem_alloc(self.host.nbytes)
        self.address = int(self._device)

    def to_device(self, size_bytes: int, stream: Any) -> None:
        part = self.host[: size_bytes // self.host.itemsize]
        self._cuda.memcpy_htod_async(self._device, part, stream)

    def to_host(self, size_bytes: int, stream: Any) -> None:
        part = self.host[: size_bytes // self.host.itemsize]
        self._cuda.memcpy_dtoh_async(part, self._device, stream)

    def close(self) -> None:
        self._device.free()
        self._pages.free()


class GrowingOutput:
    """Where TensorRT puts an output whose size only the data tells; it grows and never shrinks."""

    def __init__(self, cuda: Any, trt: Any, dtype: np.dtype[Any]) -> None:
        self._cuda = cuda
        self._dtype = dtype
        self._memory: Any = None
        self._capacity = 0
        self.shape: tuple[int, ...] = ()
        self.allocator = _allocator(trt, self)

    def reserve(self, size: int) -> int:
        """The address of at least ``size`` bytes."""
        if self._memory is None or size > self._capacity:
            self.close()
            self._capacity = max(size, 1)
            self._memory = self._cuda.mem_alloc(self._capacity)
        return int(self._memory)

    def read(self, dtype: Any, stream: Any) -> Array:
        """A copy of what the last run gave, after the stream has come to its end."""
        import numpy as np

        array = np.empty(self.shape, self._dtype)
        if array.nbytes:
            self._cuda.memcpy_dtoh_async(array, self._memory, stream)
            stream.synchronize()
        return array.astype(dtype, copy=False)

    def close(self) -> None:
        if self._memory is not None:
            self._memory.free()
            self._memory = None


def buffer(cuda: Any, elements: int, dtype: np.dtype[Any], *, is_integrated: bool) -> Buffer:
    """A buffer of the kind that suits the GPU."""
    return (MappedBuffer if is_integrated else CopiedBuffer)(cuda, elements, dtype)


def _allocator(trt: Any, output: GrowingOutput) -> Any:
    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(
            self, tensor_name: str, memory: int, size: int, alignment: int
        ) -> int:
            return output.reserve(size)

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return output.reserve(size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            output.shape = tuple(shape)

    return Allocator()

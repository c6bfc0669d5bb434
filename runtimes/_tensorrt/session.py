"""A loaded engine: instances that each have a context, a stream and buffers of their own."""

from __future__ import annotations

import queue
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.contracts import Placement, Session
from edge.core.errors import EngineError, InputError, UnavailableError, UnsupportedError
from edge.core.tensor import TensorSpec
from runtimes._tensorrt.gpu import Gpu
from runtimes._tensorrt.graphs import CudaGraph
from runtimes._tensorrt.memory import Buffer, GrowingOutput, buffer

if TYPE_CHECKING:
    import numpy as np

    from edge.core.tensor import Array, Feeds

GRAPHS = 8
"""Shapes that have a CUDA graph each; the one unused for longest goes."""

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}

Shapes = tuple[tuple[int, ...], ...]


class Tensors(msgspec.Struct, frozen=True):
    """What an engine reads and gives: the declared tensors, and by name its own types."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dtypes: dict[str, Any]


class Loaded(msgspec.Struct, frozen=True):
    """An engine and what has to live as long as it does.

    ``taken_bytes`` is what was held of the GPU's memory before it was loaded.
    """

    trt: Any
    gpu: Gpu
    taken_bytes: int
    runtime: Any
    engine: Any
    logger: Any


class TensorRtSession(Session):
    """Callers beyond the number of instances wait for one to be free."""

    def __init__(
        self, loaded: Loaded, tensors: Tensors, placement: Placement, *, instances: int
    ) -> None:
        self.inputs = tensors.inputs
        self.outputs = tensors.outputs
        self.placement = placement
        self._gpu = loaded.gpu
        self._taken_bytes = loaded.taken_bytes
        self._loaded: Loaded | None = loaded
        self._all: list[_Instance] = []
        self._idle: queue.LifoQueue[_Instance] = queue.LifoQueue()
        with loaded.gpu.active():
            try:
                for _ in range(instances):
                    self._all.append(_Instance(loaded, tensors))
            except BaseException:
                for instance in self._all:
                    instance.close()
                raise
        for instance in self._all:
            self._idle.put(instance)

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        if self._loaded is None:
            raise UnavailableError("this session is closed")
        instance = self._idle.get()
        try:
            if self._loaded is None:
                raise UnavailableError("this session is closed")
            with self._gpu.active():
                outputs = instance.run(feeds)
        finally:
            self._idle.put(instance)
        if instance.note and instance.note not in self.placement.reason:
            reason = "; ".join(filter(None, (self.placement.reason, instance.note)))
            self.placement = msgspec.structs.replace(self.placement, reason=reason)
        return outputs

    def outside_bytes(self) -> int:
        """What the GPU's memory has become less by since before the engine was loaded.

        All that happens on the GPU counts in.
        """
        return max(0, self._gpu.taken_bytes() - self._taken_bytes)

    def close(self) -> None:
        """Wait for what runs, and free all."""
        if self._loaded is None:
            return
        self._loaded = None
        with self._gpu.active():
            for _ in self._all:
                self._idle.get().close()
        for instance in self._all:  # who waits for one now is told that the session is closed
            self._idle.put(instance)
        self._gpu.close()


class _Instance:
    """One context; ``note`` says what is slower than it could be."""

    def __init__(self, loaded: Loaded, tensors: Tensors) -> None:
        self.note = ""
        self._tensors = tensors
        self._stack = ExitStack()
        self._logger = loaded.logger
        self._cuda_error = loaded.gpu.cuda.Error
        self._context = loaded.engine.create_execution_context()
        if self._context is None:
            raise UnavailableError(
                f"TensorRT has no memory for another instance: {loaded.logger.said()}",
                hint="take fewer instances, or stop what else uses memory",
            )
        self._stream: Any = loaded.gpu.cuda.Stream()
        self._buffers: dict[str, Buffer] = {}
        self._growing: dict[str, GrowingOutput] = {}
        self._shapes: Shapes | None = None
        self._sizes: dict[str, int] = {}
        self._given: dict[str, tuple[int, ...]] = {}
        self._graphs: OrderedDict[Shapes, CudaGraph] = OrderedDict()
        try:
            self._allocate(loaded)
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Feeds) -> dict[str, Array]:
        shapes = tuple(feeds[spec.name].shape for spec in self._tensors.inputs)
        if shapes != self._shapes:
            self._take_shapes(shapes)
        for spec in self._tensors.inputs:
            self._sizes[spec.name] = self._buffers[spec.name].write(feeds[spec.name])
        graph = self._graphs.get(shapes)
        if graph is not None:
            self._graphs.move_to_end(shapes)
            graph.launch()
        else:
            self._queue()
        self._stream.synchronize()
        outputs = {spec.name: self._read(spec) for spec in self._tensors.outputs}
        if graph is None:
            self._capture(shapes)
        return outputs

    def close(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        self._context = None
        self._stack.close()
        self._stream = None  # now: pycuda frees nothing of a context that was given back

    def _allocate(self, loaded: Loaded) -> None:
        """Buffers for the largest shapes; outputs that only the data can size grow as they come."""
        engine, gpu = loaded.engine, loaded.gpu
        for spec in self._tensors.inputs:
            largest = _largest(spec, engine)
            self._context.set_input_shape(spec.name, largest)
            self._add(spec.name, prod(largest), gpu)
        for spec in self._tensors.outputs:
            largest = tuple(map(int, self._context.get_tensor_shape(spec.name)))
            if min(largest, default=0) < 0:
                growing = GrowingOutput(gpu.cuda, loaded.trt, self._dtype(spec.name))
                self._growing[spec.name] = growing
                self._stack.callback(growing.close)
                self._context.set_output_allocator(spec.name, growing.allocator)
            else:
                self._add(spec.name, prod(largest), gpu)

    def _add(self, name: str, elements: int, gpu: Gpu) -> None:
        made = buffer(gpu.cuda, elements, self._dtype(name), is_integrated=gpu.is_integrated)
        self._stack.callback(made.close)
        self._buffers[name] = made
        self._context.set_tensor_address(name, made.address)

    def _dtype(self, name: str) -> np.dtype[Any]:
        found: np.dtype[Any] = self._tensors.dtypes[name]
        return found

    def _take_shapes(self, shapes: Shapes) -> None:
        self._shapes = None
        for spec, shape in zip(self._tensors.inputs, shapes, strict=True):
            if not self._context.set_input_shape(spec.name, shape):
                raise InputError(
                    f"tensor {spec.name!r} has shape {shape}, which is outside of what the engine "
                    "was built for",
                    hint="see [build] max_batch and the samples that the model was converted with",
                )
        for spec in self._tensors.outputs:
            if spec.name in self._buffers:
                shape = tuple(self._context.get_tensor_shape(spec.name))
                self._given[spec.name] = shape
                self._sizes[spec.name] = prod(shape) * self._dtype(spec.name).itemsize
        self._shapes = shapes

    def _queue(self) -> None:
        """Put one inference on the stream: copies to the GPU, kernels, copies back."""
        for spec in self._tensors.inputs:
            self._buffers[spec.name].to_device(self._sizes[spec.name], self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError(f"TensorRT failed: {self._logger.said()}")
        for spec in self._tensors.outputs:
            if spec.name in self._buffers:
                self._buffers[spec.name].to_host(self._sizes[spec.name], self._stream)

    def _read(self, spec: TensorSpec) -> Array:
        if spec.name in self._growing:
            return self._growing[spec.name].read(spec.dtype, self._stream)
        return self._buffers[spec.name].read(self._given[spec.name], spec.dtype)

    def _capture(self, shapes: Shapes) -> None:
        """Have a CUDA graph next time, now that a run has settled what is settled by running."""
        if self.note:
            return
        if self._growing:
            self.note = "without CUDA graphs, as the size of an output depends on the data"
            return
        try:
            self._graphs[shapes] = CudaGraph(self._stream.handle, self._queue)
        except (EngineError, self._cuda_error) as error:
            self.note = f"without CUDA graphs: {error}"
            return
        if len(self._graphs) > GRAPHS:
            self._graphs.popitem(last=False)[1].close()


def _largest(spec: TensorSpec, engine: Any) -> tuple[int, ...]:
    dims = spec.shape if spec.is_static else engine.get_tensor_profile_shape(spec.name, 0)[2]
    return tuple(int(dim) for dim in dims)


def tensors_of(
    engine: Any,
    trt: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Tensors:
    """Compare what the manifest declares with what the engine has, by name.

    TensorRT 8 computes int64 as int32, so types of the same kind are taken for equal.

    Raises:
        EngineError: The engine has other tensors.
        UnsupportedError: One has a type that numpy does not know, or is read on the CPU.
    """
    import numpy as np

    modes: Mapping[str, Any] = {
        name: engine.get_tensor_mode(name)
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
    }
    found = [
        {name for name, mode in modes.items() if mode == wanted}
        for wanted in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT)
    ]
    declared = [{spec.name for spec in specs} for specs in (inputs, outputs)]
    if found != declared:
        raise EngineError(
            f"the manifest declares the tensors {declared}, the engine has {found}",
            hint="convert the model again",
        )
    dtypes: dict[str, Any] = {}
    for spec in (*inputs, *outputs):
        name = engine.get_tensor_dtype(spec.name).name
        if name not in _DTYPES:
            raise UnsupportedError(f"tensor {spec.name!r} is of TensorRT's type {name}")
        if engine.get_tensor_location(spec.name) != trt.TensorLocation.DEVICE:
            raise UnsupportedError(
                f"tensor {spec.name!r} holds a shape, which TensorRT reads on the CPU",
                hint="give the model that shape as a constant",
            )
        dtypes[spec.name] = np.dtype(_DTYPES[name])
    return Tensors(tuple(inputs), tuple(outputs), dtypes)

"""The ``tensorrt`` module as far as the runtime uses it, on a world that records it.

``test_surfaces.py`` compares every name and parameter here with the real bindings.
"""

from __future__ import annotations

import enum
import json
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_cuda import Stream
from fake_world import World
from onnx import numpy_helper

from converters._tensorrt.emulation import OPTIONS, emulated

CLASSES: dict[str, type] = {}
"""By the name that the real module has."""

NAMES = {1: "FLOAT", 10: "HALF", 3: "INT8", 2: "UINT8", 6: "INT32", 7: "INT64", 9: "BOOL"}


def known(kind: type) -> type:
    CLASSES[kind.__name__] = kind
    return kind


@known
class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self.is_set_up = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


@known
class IProgressMonitor:
    def __init__(self) -> None:
        self.is_set_up = True


@known
class IOutputAllocator:
    def __init__(self) -> None:
        self.is_set_up = True


@known
class IHostMemory(bytes):
    nbytes = property(len)


@known
class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self.shapes[input] = [tuple(each) for each in (min, opt, max)]


@known
class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.data or b"timings")


@known
class IBuilderConfig:
    world: World
    progress_monitor: Any = None

    def __init__(self) -> None:
        self.set_flags: list[str] = []
        self.limits: dict[str, int] = {}
        self.profiles: list[IOptimizationProfile] = []
        self.DLA_core = -1
        self.default_device_type: Any = None
        self.cache: ITimingCache | None = None

    def set_flag(self, flag: Any) -> None:
        self.set_flags.append(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.limits[pool.name] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache.data not in (b"", b"timings"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache


@known
class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: Any = None


@known
class ParserError:
    def __init__(self, name: str, op: str) -> None:
        self._name, self._op = name, op

    def node_name(self) -> str:
        return self._name

    def desc(self) -> str:
        return f"no importer for {self._op}"


@known
class OnnxParser:
    world: World

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        assert logger.is_set_up
        self._network = network
        self._errors: list[Any] = []

    def parse_from_file(self, model: str) -> bool:
        loaded = onnx.load(model)
        self._errors = [
            self.world.parser_error(node.name, node.op_type)
            for node in loaded.graph.node
            if node.op_type in self.world.refused_ops
        ]
        self._network.model = loaded
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


@known
class Builder:
    world: World

    def __init__(self, logger: ILogger) -> None:
        assert logger.is_set_up
        self._logger = logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return self.world.dla_cores

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        config = self.world.classes["IBuilderConfig"]()
        self.world.configs.append(config)
        return config

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        self.world.on_gpu("build")
        self._tell(getattr(config, "progress_monitor", None))
        if self.world.failing_builds:
            self.world.failing_builds -= 1
            if self.world.raises_memory_error:
                raise MemoryError("cuMemAlloc failed")
            self._logger.log(ILogger.Severity.ERROR, "[memory] Out Of Memory: workspace")
            return None
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        dynamic = any(d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim)
        if dynamic and not config.profiles:
            self._logger.log(ILogger.Severity.ERROR, "Network has dynamic inputs, but no profile")
            return None
        is_stripped = "STRIP_PLAN" in config.set_flags
        for tensor in model.graph.initializer if is_stripped else ():
            zeros = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
        shapes = config.profiles[0].shapes if config.profiles else {}
        head = {"version": self.world.version, "stripped": is_stripped, "shapes": shapes}
        return IHostMemory(json.dumps(head).encode() + b"\n" + model.SerializeToString())

    def _tell(self, monitor: Any) -> None:
        if monitor is None:
            return
        assert monitor.is_set_up
        monitor.phase_start("Building", None, 2)
        monitor.phase_start("Tactics", "Building", 4)
        for step in range(4):
            assert monitor.step_complete("Tactics", step)
        monitor.phase_finish("Tactics")
        monitor.step_complete("Building", 0)
        monitor.phase_finish("Building")


@known
class Runtime:
    world: World

    def __init__(self, logger: ILogger) -> None:
        assert logger.is_set_up
        self._logger = logger
        self.DLA_core = -1

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        self.world.on_gpu("deserialize")
        head, _, data = serialized_engine.partition(b"\n")
        facts = json.loads(head)
        if facts["version"] != self.world.version:
            self._logger.log(ILogger.Severity.ERROR, "engine of another version")
            return None
        return self.world.classes["ICudaEngine"](onnx.load_from_string(data), facts)


@known
class ICudaEngine:
    world: World

    def __init__(self, model: Any, facts: dict[str, Any]) -> None:
        self.model, self.facts = model, facts
        self.tensors = {value.name: value for value in (*model.graph.input, *model.graph.output)}
        self.needs_weights = facts["stripped"]

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.world.enums["TensorIOMode"]
        is_input = name in {value.name for value in self.model.graph.input}
        return modes.INPUT if is_input else modes.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        places = self.world.enums["TensorLocation"]
        return places.HOST if name in self.world.on_host else places.DEVICE

    def get_tensor_dtype(self, name: str) -> Any:
        return self.world.enums["DataType"][NAMES[self.tensors[name].type.tensor_type.elem_type]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        return [tuple(shape) for shape in self.facts["shapes"][name]]

    def create_execution_context(self, strategy: Any = None) -> Any:
        self.world.on_gpu("create_execution_context")
        assert not self.needs_weights, "a stripped engine was not refitted"
        return self.world.classes["IExecutionContext"](self)


@known
class IExecutionContext:
    world: World

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        options = onnxruntime.SessionOptions()
        for key, value in OPTIONS.items():
            options.add_session_config_entry(key, value)
        # Not the graph itself: QuantizeLinear of FP16 rounds down in ONNX Runtime 1.23, for one.
        self._session = onnxruntime.InferenceSession(
            emulated(engine.model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self.world.on_gpu("set_input_shape")
        low, _, high = self._engine.facts["shapes"].get(name, (shape, shape, shape))
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.world.sized_by_data:
            return (-1, *self._answer()[name].shape[1:])
        return tuple(self._answer()[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        assert output_allocator.is_set_up
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.world.on_gpu("execute_async_v3")
        if self.world.fails_to_run:
            return False
        names = set(self._engine.tensors)
        assert names == self._addresses.keys() | self._allocators.keys()
        Stream.by_handle[stream_handle].queue(self._run)
        return True

    def _run(self) -> None:
        feeds = {name: self._read(name) for name in self._shapes}
        outputs = [output.name for output in self._session.get_outputs()]
        for name, whole in zip(outputs, self._session.run(outputs, feeds), strict=True):
            array = self.world.trimmed(name, whole)
            address = self._addresses.get(name, 0)
            if name in self._allocators:
                allocator = self._allocators[name]
                address = allocator.reallocate_output(name, 0, array.nbytes, 256)
                allocator.notify_shape(name, array.shape)
            data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            self.world.bytes_at(address, data.nbytes)[...] = data

    def _read(self, name: str) -> Any:
        dtype = np.dtype(self._session_type(name))
        shape = self._shapes[name]
        size = int(np.prod(shape)) * dtype.itemsize
        return self.world.bytes_at(self._addresses[name], size).view(dtype).reshape(shape).copy()

    def _answer(self) -> dict[str, Any]:
        """The outputs for zeros of the shapes that are set, for their shapes."""
        feeds = {n: np.zeros(s, self._session_type(n)) for n, s in self._shapes.items()}
        outputs = [output.name for output in self._session.get_outputs()]
        return dict(zip(outputs, self._session.run(outputs, feeds), strict=True))

    def _session_type(self, name: str) -> Any:
        kind = self._engine.tensors[name].type.tensor_type.elem_type
        return onnx.helper.tensor_dtype_to_np_dtype(kind)


@known
class Refitter:
    world: World

    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        self.engine = engine
        self.model: Any = None

    def refit_cuda_engine(self) -> bool:
        self.world.on_gpu("refit")
        self.engine.model, self.engine.needs_weights = self.model, False
        return True


@known
class OnnxParserRefitter:
    world: World

    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter = refitter

    def refit_from_file(self, model: str) -> bool:
        loaded = onnx.load(model)
        old = self._refitter.engine.model.graph
        same = [t.name for t in old.initializer] == [t.name for t in loaded.graph.initializer]
        self._refitter.model = loaded
        return same


ENUMS = (
    *("BuilderFlag", "DataType", "DeviceType", "MemoryPoolType", "TensorIOMode"),
    *("NetworkDefinitionCreationFlag", "TensorLocation"),
)


def module(world: World) -> ModuleType:
    """``tensorrt`` of the world's version: names that it does not have are left out."""
    found: Any = ModuleType("tensorrt")
    found.__version__ = world.surface["__version__"]
    world.enums = {
        name: enum.IntEnum(name, list(world.surface[name]), start=0)  # type: ignore[misc]
        for name in ENUMS
    }
    world.classes = {
        name: _restricted(kind, world) for name, kind in CLASSES.items() if name in world.surface
    }
    world.parser_error = world.classes["ParserError"]
    for name, what in {**world.enums, **world.classes}.items():
        setattr(found, name, what)
    return found


def _restricted(kind: type, world: World) -> type:
    """A class of this world without the names that the version has not."""
    offered = world.surface[kind.__name__]
    members: dict[str, Any] = {"world": world}
    for name in vars(kind):
        if not name.startswith("_") and name not in offered and name != "Severity":
            members[name] = _missing(name)
    return type(kind.__name__, (kind,), members)


def _missing(name: str) -> property:
    def get(self: object) -> Any:
        raise AttributeError(name)

    return property(get)

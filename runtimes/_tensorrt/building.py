"""Builds an engine from a graph and its plan, with whatever this version of TensorRT has."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec

from edge.core.build import WORKSPACE_SHARE, BuildPlan, Progress
from edge.core.errors import EngineError, UnavailableError, UnsupportedError
from runtimes._tensorrt.logs import listener
from runtimes._tensorrt.progress import monitor

log = logging.getLogger(__name__)


class Order(msgspec.Struct, frozen=True):
    """What to build: the graph at ``path``, on a device with ``memory_bytes``."""

    path: Path
    plan: BuildPlan
    memory_bytes: int
    timings: bytes = b""


class Built(msgspec.Struct, frozen=True):
    """A serialized engine, the timings it took, and what was not as planned."""

    engine: bytes
    timings: bytes
    notes: tuple[str, ...]


def can_refit(trt: Any) -> bool:
    """Whether engines can be kept without their weights, and get them from the graph later."""
    return hasattr(trt, "OnnxParserRefitter") and hasattr(trt.BuilderFlag, "STRIP_PLAN")


def build(trt: Any, order: Order, progress: Progress) -> Built:
    """Build; where memory runs out, once more with half the workspace.

    Raises:
        EngineError: The graph is refused, or no engine comes out.
        UnavailableError: There is too little memory.
        UnsupportedError: The plan asks for what this TensorRT has not.
    """
    path, plan = order.path, order.plan
    workspace = plan.workspace_bytes or order.memory_bytes // WORKSPACE_SHARE
    notes: list[str] = []
    for size in (workspace, workspace // 2):
        builder = _Builder(trt, plan, size)
        engine = builder.build(path, order.timings, progress)
        if engine is not None:
            return Built(engine, builder.timings(), (*notes, *builder.notes))
        if not builder.logger.is_out_of_memory:
            raise EngineError(
                f"TensorRT {trt.__version__} builds no engine of {path.name}: "
                f"{builder.logger.said()}",
                hint="compare with what its parser says: edge check",
            )
        notes.append(f"memory ran out with a workspace of {size / 2**20:.0f} MiB")
        log.warning("building %s: %s", path, notes[-1])
    raise UnavailableError(
        f"memory runs out as TensorRT builds {path.name}: {'; '.join(notes)}",
        hint="stop what else uses memory, or convert with a smaller [build] workspace_mb",
    )


class _Builder:
    """One try. The parts live as long as the builder does: TensorRT does not keep them alive."""

    def __init__(self, trt: Any, plan: BuildPlan, workspace: int) -> None:
        self._trt = trt
        self._plan = plan
        self.notes: list[str] = []
        self.logger = listener(trt)
        self._builder = trt.Builder(self.logger)
        self._network = self._builder.create_network(self._network_flags())
        self._config = self._builder.create_builder_config()
        self._config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)

    def build(self, path: Path, timings: bytes, progress: Progress) -> bytes | None:
        """The engine, or None where the logger says why."""
        self._parse(path)
        self._allow()
        self._set_shapes()
        if self._plan.has_timing_cache:
            self._set_timings(timings)
        watching = monitor(self._trt, progress)
        if watching is not None and hasattr(self._config, "progress_monitor"):
            self._config.progress_monitor = watching
        try:
            engine = self._builder.build_serialized_network(self._network, self._config)
        except MemoryError as error:
            self.logger.complaints.append(f"out of memory: {error}")
            return None
        return None if engine is None else bytes(engine)

    def timings(self) -> bytes:
        cache = self._config.get_timing_cache() if self._plan.has_timing_cache else None
        return b"" if cache is None else bytes(cache.serialize())

    def _network_flags(self) -> int:
        """Batches have been explicit since 8.0; the flag that says so is gone since 11."""
        known = self._trt.NetworkDefinitionCreationFlag
        wanted = ["EXPLICIT_BATCH"]
        if self._plan.is_strongly_typed:
            if not hasattr(known, "STRONGLY_TYPED"):
                raise UnsupportedError(
                    f"TensorRT {self._trt.__version__} has no strong typing, which the graph needs",
                    hint="convert the model for this device's JetPack: edge profiles",
                )
            wanted.append("STRONGLY_TYPED")
        return sum(1 << int(getattr(known, name)) for name in wanted if hasattr(known, name))

    def _parse(self, path: Path) -> None:
        parser = self._trt.OnnxParser(self._network, self.logger)
        self._parser = parser  # its weights are read as late as in the build
        if parser.parse_from_file(str(path)):
            return
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        named = "; ".join(_said(error) for error in errors) or self.logger.said()
        raise EngineError(
            f"TensorRT {self._trt.__version__} can not read {path.name}: {named}",
            hint="convert the model for this device's TensorRT: edge profiles",
        )

    def _allow(self) -> None:
        plan, trt = self._plan, self._trt
        flags = [] if plan.is_strongly_typed else [name.upper() for name in plan.flags]
        if plan.is_sparse:
            flags.append("SPARSE_WEIGHTS")
        if plan.is_refittable and can_refit(trt):
            flags += ["STRIP_PLAN", "REFIT"]
        elif plan.is_refittable:
            self.notes.append(
                f"TensorRT {trt.__version__} can not refit: new weights need a new engine"
            )
        for name in flags:
            if not hasattr(trt.BuilderFlag, name):
                raise UnsupportedError(
                    f"TensorRT {trt.__version__} has no {name}, which the plan asks for",
                    hint="convert the model for this device's JetPack: edge profiles",
                )
            self._config.set_flag(getattr(trt.BuilderFlag, name))
        if plan.dla_core is not None:
            self._take_dla(plan.dla_core)

    def _take_dla(self, core: int) -> None:
        cores = int(self._builder.num_DLA_cores)
        if core >= cores:
            raise UnavailableError(
                f"the plan asks for DLA {core}, this machine has {cores}",
                hint="convert without [build] dla",
            )
        self._config.default_device_type = self._trt.DeviceType.DLA
        self._config.DLA_core = core
        self._config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)
        self.notes.append(f"on DLA {core}; what it can not run is on the GPU")

    def _set_shapes(self) -> None:
        if not self._plan.shapes:
            return
        profile = self._builder.create_optimization_profile()
        for name, shape in self._plan.shapes.items():
            profile.set_shape(name, shape.min, shape.opt, shape.max)
        self._config.add_optimization_profile(profile)

    def _set_timings(self, timings: bytes) -> None:
        """Timings that do not fit are dropped: TensorRT takes them again."""
        cache = self._config.create_timing_cache(timings)
        if cache is None or not self._config.set_timing_cache(cache, ignore_mismatch=False):
            log.warning("the timings of kernels were of no use, and are taken again")
            cache = self._config.create_timing_cache(b"")
            self._config.set_timing_cache(cache, ignore_mismatch=False)


def _said(error: Any) -> str:
    """The node, where the version can name it (8.6 and later), and what is wrong with it."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    return f"node {name}: {error.desc()}" if name else str(error.desc())

"""TensorRT on NVIDIA GPUs: builds the engine of a portable graph once, keeps it, and runs it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.core.build import PLAN_FILE, BuildPlan, EngineBuild, Progress, read_plan
from edge.core.contracts import Availability, Placement, ensure_ready, main_file
from edge.core.errors import EngineError, MissingDependencyError, UnavailableError
from edge.core.lazy import require
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile
from runtimes._tensorrt.building import Order, build, can_refit
from runtimes._tensorrt.gpu import EXTRA, Gpu
from runtimes._tensorrt.logs import listener
from runtimes._tensorrt.session import Loaded, TensorRtSession, tensors_of
from runtimes._tensorrt.store import EngineStore, Facts

log = logging.getLogger(__name__)

DEVICE = "gpu"


class TensorRtBackend:
    """Options: ``instances``, each of which can run one inference at a time (1)."""

    name = "tensorrt"

    def availability(self) -> Availability:
        try:
            trt = _engine()
            gpu = Gpu()
        except MissingDependencyError as error:
            return Availability(ready=False, reason=str(error), hint=error.hint)
        except UnavailableError as error:
            return Availability(False, trt.__version__, reason=str(error), hint=error.hint)
        except Exception as error:  # a broken install must not break the list of engines
            return Availability(ready=False, reason=f"TensorRT does not start: {error}")
        try:
            facts = {name: value for name, value in gpu.facts.items() if name != "gpu"}
            return Availability(
                ready=True,
                version=trt.__version__,
                devices=(DEVICE,),
                facts=facts,
                needs_instances=True,
            )
        finally:
            gpu.close()

    def open(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> TensorRtSession:
        """Load the engine of ``variant``; where there is none yet, build it first."""
        ensure_ready(self.name, self.availability())
        settings = {**variant.options, **(options or {})}
        _ensure_gpu(settings)
        instances = _instances(settings)
        gpu = Gpu()
        try:
            with gpu.active():
                return _Order(variant, folder, gpu).open(instances)
        except BaseException:
            gpu.close()
            raise

    def is_built(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> bool:
        """Whether ``open`` would find an engine that is whole and fits; never raises."""
        try:
            gpu = Gpu()
            try:
                return _Order(variant, folder, gpu).is_built
            finally:
                gpu.close()
        except Exception as error:  # a broken install is told by ``availability``
            log.debug("no engine of %s can be looked for: %s", variant.id, error)
            return False

    def build(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> EngineBuild:
        """Make the engine, or find the one that was made before."""
        ensure_ready(self.name, self.availability())
        gpu = Gpu()
        try:
            with gpu.active():
                return _Order(variant, folder, gpu).build(progress or (lambda *_: None))
        finally:
            gpu.close()


class _Order:
    """One variant on one GPU. The GPU's context is active where engines are built or loaded."""

    def __init__(self, variant: Variant, folder: Path, gpu: Gpu) -> None:
        self._trt = _engine()
        self._variant = variant
        self._gpu = gpu
        self._path = main_file(variant, folder)
        self._plan = read_plan(folder)
        self._store = EngineStore()
        self._facts = Facts(
            graph=self._graph_digest(),
            plan=hashlib.sha256((folder / PLAN_FILE).read_bytes()).hexdigest(),
            tensorrt=self._trt.__version__,
            **gpu.facts,
        )

    @property
    def is_built(self) -> bool:
        return self._store.has(self._facts)

    def build(self, progress: Progress) -> EngineBuild:
        start = time.perf_counter()
        with self._store.building(self._facts):
            engine = self._store.read(self._facts)
            was_there = engine is not None
            notes: tuple[str, ...] = ()
            if engine is None:
                engine, notes = self._built(progress)
        seconds = 0.0 if was_there else time.perf_counter() - start
        path = self._store.path(self._facts)
        return EngineBuild(path, len(engine), seconds, was_there, notes)

    def open(self, instances: int) -> TensorRtSession:
        with self._store.building(self._facts):
            stored = self._store.read(self._facts)
            if stored is not None:
                try:
                    return self._session(stored, instances)
                except EngineError as error:
                    log.warning("%s, and is built again", error)
            engine, _ = self._built(lambda *_: None)
        return self._session(engine, instances)

    def _built(self, progress: Progress) -> tuple[bytes, tuple[str, ...]]:
        log.info("building an engine of %s: this takes minutes", self._path)
        timings = self._store.timings(self._facts) if self._plan.has_timing_cache else b""
        order = Order(self._path, self._plan, self._gpu.memory_bytes, timings)
        built = build(self._trt, order, progress)
        self._store.write(self._facts, built.engine)
        if built.timings:
            self._store.write_timings(self._facts, built.timings)
        return built.engine, built.notes

    def _session(self, data: bytes, instances: int) -> TensorRtSession:
        trt, variant = self._trt, self._variant
        taken_bytes = self._gpu.taken_bytes()
        logger = listener(trt)
        runtime = trt.Runtime(logger)
        if self._plan.dla_core is not None:
            runtime.DLA_core = self._plan.dla_core
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None and logger.is_out_of_memory:  # a new one would need as much
            raise UnavailableError(
                f"memory runs out as the engine is loaded: {logger.said()}",
                hint="stop what else uses memory",
            )
        if engine is None:
            raise EngineError(f"TensorRT does not load the engine it built: {logger.said()}")
        if self._is_refitted:
            self._refit(engine, logger)
        return TensorRtSession(
            Loaded(trt, self._gpu, taken_bytes, runtime, engine, logger),
            tensors_of(engine, trt, variant.inputs, variant.outputs),
            _placement(self._plan, variant.precision),
            instances=instances,
        )

    @property
    def _is_refitted(self) -> bool:
        return self._plan.is_refittable and can_refit(self._trt)

    def _refit(self, engine: Any, logger: Any) -> None:
        """Give a stripped engine the weights of this graph."""
        refitter = self._trt.Refitter(engine, logger)
        parser = self._trt.OnnxParserRefitter(refitter, logger)
        if not (parser.refit_from_file(str(self._path)) and refitter.refit_cuda_engine()):
            raise EngineError(f"the engine takes no weights of {self._path.name}: {logger.said()}")

    def _graph_digest(self) -> str:
        """Of the whole graph; of its structure alone where the weights come in later."""
        if self._is_refitted and self._plan.structure:
            return self._plan.structure
        return self._variant.files[0].sha256


def _engine() -> Any:
    return require("tensorrt", extra=EXTRA)


def _ensure_gpu(settings: Mapping[str, Any]) -> None:
    device = str(settings.get("device", DEVICE)).lower()
    if device != DEVICE:
        raise UnavailableError(
            f"TensorRT has no {device} here, only {DEVICE}", hint="choose another engine"
        )


def _instances(settings: Mapping[str, Any]) -> int:
    given = settings.get("instances", 1)
    try:
        instances = int(given)
    except (TypeError, ValueError):
        instances = 0
    if instances < 1:
        raise EngineError(
            f"TensorRT can not have {given!r} instances", hint="give a whole number from 1 on"
        )
    return instances


def _placement(plan: BuildPlan, precision: str) -> Placement:
    """TensorRT puts all layers on the GPU, or says of none where they went (DLA)."""
    is_dla = plan.dla_core is not None
    return Placement(
        requested=f"dla {plan.dla_core}" if is_dla else DEVICE,
        actual=f"dla {plan.dla_core}, {DEVICE}" if is_dla else DEVICE,
        shares={} if is_dla else {DEVICE: 1.0},
        precision=precision,
        reason="what the DLA can not run is on the GPU" if is_dla else "",
    )


BACKEND = TensorRtBackend()

"""ONNX Runtime: CPU everywhere, NVIDIA GPUs where the wheel has their providers."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.core.build import WORKSPACE_SHARE, read_plan
from edge.core.cache import default_cache
from edge.core.contracts import Availability, Placement, Session, agreed, ensure_ready, main_file
from edge.core.errors import EngineError, InputError, MissingDependencyError, UnavailableError
from edge.core.lazy import require
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_STANDS_IN = {"tensorrt": ("tensorrt", "cuda", "cpu")}
"""Variants for TensorRT are plain ONNX: pairs of Q and DQ, or casts. Devices, best first."""

_BESIDE = {"tensorrt": ("cuda",)}
"""Who takes the nodes that a provider does not, before the CPU does."""

_DEVICES = {provider: device for device, provider in _PROVIDERS.items()}
_AS_WRITTEN = "session.disable_quant_qdq"
"""Signed pairs run as they are written: fused for the CPU they may saturate, and are no faster."""

_DTYPES = {"float": "float32", "double": "float64"}
_FATAL_ONLY = 4  # an error is raised, and so need not be printed as well


class OnnxRuntimeSession(Session):
    """``InferenceSession.run`` may be called from several threads and returns fresh arrays."""

    def __init__(
        self,
        session: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        placement: Placement,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.placement = placement
        self._session = session
        self._names = [spec.name for spec in outputs]
        self._text = [spec.name for spec in inputs if spec.dtype == "string"]

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise UnavailableError("this session is closed")
        if self._text:
            feeds = {**feeds, **{name: _as_text(name, feeds[name]) for name in self._text}}
        try:
            return dict(zip(self._names, session.run(self._names, feeds), strict=True))
        except Exception as error:  # its exceptions have no common base but Exception
            raise EngineError(f"ONNX Runtime failed: {error}") from error

    def close(self) -> None:
        self._session = None


class OnnxRuntimeBackend:
    """Options: ``device`` (cpu, cuda, tensorrt), ``threads``; others are session config entries.

    The options of a variant for another engine are not for this one, and left aside.
    """

    name = "onnxruntime"

    def availability(self) -> Availability:
        try:
            onnxruntime = _engine()
            providers = onnxruntime.get_available_providers()
        except MissingDependencyError as error:
            return Availability(ready=False, reason=str(error), hint=error.hint)
        except Exception as error:  # a broken install must not break the list of engines
            return Availability(ready=False, reason=f"ONNX Runtime does not start: {error}")
        devices = tuple(device for device, name in _PROVIDERS.items() if name in providers)
        stands_in = {
            engine: tuple(device for device in wanted if device in devices)
            for engine, wanted in _STANDS_IN.items()
        }
        return Availability(
            ready=True, version=onnxruntime.__version__, devices=devices, stands_in=stands_in
        )

    def open(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> OnnxRuntimeSession:
        availability = self.availability()
        ensure_ready(self.name, availability)
        is_own = variant.engine == self.name
        settings = {**(variant.options if is_own else {}), **(options or {})}
        device = str(settings.pop("device", "cpu")).lower()
        if device not in availability.devices:
            raise UnavailableError(
                f"ONNX Runtime {availability.version} has no {device} here, "
                f"only {', '.join(availability.devices)}",
                hint="install a wheel with that provider, or choose the device cpu",
            )
        precision = variant.precision
        if device == "cpu" and not is_own:
            settings.setdefault(_AS_WRITTEN, 1)
            precision = "fp32" if precision == "int8" else precision
        path = main_file(variant, folder)
        told: dict[str, str] = {}
        if device == "tensorrt":
            told = _tensorrt_options(variant, folder, profile.memory.bytes)
        names = _names(device, availability.devices)
        providers = [(_PROVIDERS[name], told if name == device else {}) for name in names]
        why = ""
        try:
            session = _create(path, providers, settings)
        except EngineError as error:
            if device == "cpu" or not is_own:
                raise
            why = str(error)
            session = _create(path, providers[-1:], settings)
        return OnnxRuntimeSession(
            session,
            agreed(variant.inputs, _specs(session.get_inputs())),
            agreed(variant.outputs, _specs(session.get_outputs())),
            _placement(session, device, precision, why),
        )


def _engine() -> Any:
    onnxruntime = require("onnxruntime", extra="onnxruntime")
    onnxruntime.disable_telemetry_events()  # Windows builds report to their maker unless told
    return onnxruntime


def _names(device: str, devices: tuple[str, ...]) -> tuple[str, ...]:
    """Who is to run the nodes, best first.

    The CPU is always named: the engine adds it by itself anyway, and now it is in the open.
    """
    beside = (one for one in _BESIDE.get(device, ()) if one in devices)
    return tuple(dict.fromkeys((device, *beside, "cpu")))


def _tensorrt_options(variant: Variant, folder: Path, memory_bytes: int) -> dict[str, str]:
    """What the provider is told; its flags are read as ``True``, ``1`` is an error.

    The provider builds without strong typing: precisions that are in the graph have to be allowed,
    also INT8 for pairs of Q and DQ (https://github.com/microsoft/onnxruntime/issues/13381).
    """
    cache = default_cache() / "engines" / "onnxruntime"
    options = {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache / folder.name),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
    }
    if variant.engine != "tensorrt":  # and so without a plan
        return options
    plan = read_plan(folder)
    if workspace := plan.workspace_bytes or memory_bytes // WORKSPACE_SHARE:
        options["trt_max_workspace_size"] = str(workspace)
    flags = [flag for flag in plan.flags if flag in ("fp16", "int8")]
    return options | {f"trt_{flag}_enable": "True" for flag in flags}


def _create(
    path: Path, providers: list[tuple[str, dict[str, str]]], settings: Mapping[str, Any]
) -> Any:
    onnxruntime = _engine()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    # Where each node went; known since 1.24, of no effect before.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if may_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        options.intra_op_num_threads = int(settings.get("threads", 0))
        for key, value in settings.items():
            if key != "threads":
                options.add_session_config_entry(key, str(value))
        for _, told in providers:
            if "trt_engine_cache_path" in told:
                Path(told["trt_engine_cache_path"]).mkdir(0o700, parents=True, exist_ok=True)
        # Its own fallback would go on without the provider, also later on while it runs, and say
        # so on the terminal alone.
        return onnxruntime.InferenceSession(
            str(path), options, providers=providers, enable_fallback=0
        )
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime can not load {path.name}: {error}",
            hint="check the options that were given, and the bundle with: edge verify",
        ) from error


def may_saturate(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether unsigned-times-signed INT8 kernels may overflow 16 bits: on x86 without VNNI.

    The exact kernels take 2.2 times as long where there is VNNI (SqueezeNet, 1.31), so they are
    asked for only where they are needed, and where it can't be known.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in cpuinfo.read_text()
    except OSError:
        return True


def _placement(session: Any, device: str, precision: str, why: str = "") -> Placement:
    """Fallback is silent in ONNX Runtime: compare what was asked for with what it reports."""
    wanted, got = _PROVIDERS[device], session.get_providers()
    shares = _shares(session)
    actual = _DEVICES.get(got[0], got[0])
    reason = ""
    if wanted not in got:
        reason = f"ONNX Runtime dropped {wanted} while loading" + (f": {why}" if why else "")
    elif shares and wanted not in shares:
        reason = f"ONNX Runtime gave {wanted} not one node"
        actual = ", ".join(_DEVICES.get(name, name) for name in shares)
    return Placement(
        requested=device,
        actual=actual,
        shares=shares,
        precision=_executed_precision(precision, actual),
        is_fallback=bool(reason),
        reason=reason,
    )


def _shares(session: Any) -> dict[str, float]:
    """Share of nodes by provider; empty where there are several and the engine does not say."""
    providers = session.get_providers()
    if len(providers) == 1:
        return {providers[0]: 1.0}
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    nodes: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    return {name: count / nodes.total() for name, count in nodes.most_common()}


def _executed_precision(precision: str, device: str) -> str:
    """The CPU provider computes FP16 graphs in FP32 between inserted casts, but for Arm.

    Seen in a profile of 1.31 on x86-64: ``InsertedPrecisionFreeCast_*``, and float32 kernels.
    CUDA's has no kernels for pairs of Q and DQ: what lies between runs in their float type.
    """
    if precision == "int8" and device == "cuda":
        return "float"
    is_arm = platform.machine().lower() in ("aarch64", "arm64")
    return "fp32" if device == "cpu" and precision == "fp16" and not is_arm else precision


def _specs(tensors: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(tensor.name, tensor.type, tensor.shape) for tensor in tensors)


def _spec(name: str, kind: str, shape: list[int | str | None]) -> TensorSpec:
    """``kind`` is like ``tensor(float)``; an axis without a name gets one of its own."""
    element = kind.removeprefix("tensor(").removesuffix(")")
    dims = (
        dim if isinstance(dim, int) and dim >= 0 else str(dim or f"{name}_{axis}")
        for axis, dim in enumerate(shape)
    )
    return TensorSpec(name, _DTYPES.get(element, element), tuple(dims))


def _as_text(name: str, array: Array) -> Array:
    """Bytes are UTF-8; the engine would take them for their Python representation, or read on."""
    import numpy as np

    try:
        items = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    except UnicodeDecodeError as error:
        raise InputError(f"tensor {name!r} is not UTF-8: {error}") from error
    if not all(isinstance(item, str) for item in items):
        raise InputError(f"tensor {name!r} must hold text only")
    text = np.empty(len(items), object)
    text[:] = items
    shaped: Array = text.reshape(array.shape)
    return shaped


BACKEND = OnnxRuntimeBackend()

"""ONNX Runtime: CPU everywhere, NVIDIA GPUs where the wheel has their providers."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_DEVICES = {provider: device for device, provider in _PROVIDERS.items()}
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
    """Options: ``device`` (cpu, cuda, tensorrt), ``threads``; others are session config entries."""

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
        return Availability(ready=True, version=onnxruntime.__version__, devices=devices)

    def open(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> OnnxRuntimeSession:
        availability = self.availability()
        ensure_ready(self.name, availability)
        settings = {**variant.options, **(options or {})}
        device = str(settings.pop("device", "cpu")).lower()
        if device not in availability.devices:
            raise UnavailableError(
                f"ONNX Runtime {availability.version} has no {device} here, "
                f"only {', '.join(availability.devices)}",
                hint="install a wheel with that provider, or choose the device cpu",
            )
        session = _create(main_file(variant, folder), _PROVIDERS[device], settings)
        return OnnxRuntimeSession(
            session,
            agreed(variant.inputs, _specs(session.get_inputs())),
            agreed(variant.outputs, _specs(session.get_outputs())),
            _placement(session, device, variant.precision),
        )


def _engine() -> Any:
    onnxruntime = require("onnxruntime", extra="onnxruntime")
    onnxruntime.disable_telemetry_events()  # Windows builds report to their maker unless told
    return onnxruntime


def _create(path: Path, provider: str, settings: dict[str, Any]) -> Any:
    onnxruntime = _engine()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    # Where each node went; known since 1.24, of no effect before.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if may_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        options.intra_op_num_threads = int(settings.pop("threads", 0))
        for key, value in settings.items():
            options.add_session_config_entry(key, str(value))
        # The CPU is always named: the engine adds it by itself anyway, and now it is in the open.
        providers = list(dict.fromkeys([provider, _PROVIDERS["cpu"]]))
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
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


def _placement(session: Any, device: str, precision: str) -> Placement:
    """Fallback is silent in ONNX Runtime: compare what was asked for with what it reports."""
    wanted, got = _PROVIDERS[device], session.get_providers()
    shares = _shares(session)
    actual = _DEVICES.get(got[0], got[0])
    reason = ""
    if wanted not in got:
        reason = f"ONNX Runtime dropped {wanted} while loading"
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
    """
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

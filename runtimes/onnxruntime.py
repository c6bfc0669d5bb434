"""ONNX Runtime: CPU everywhere, CUDA and TensorRT providers where the wheel has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.core.contracts import Availability, Placement, Session, ensure_ready
from edge.core.errors import EngineError, MissingDependencyError, UnavailableError
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
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "string",
}
_ERRORS_ONLY = 3


class OnnxRuntimeSession(Session):
    """``InferenceSession.run`` may be called from several threads and returns fresh arrays."""

    def __init__(self, variant: Variant, session: Any, placement: Placement) -> None:
        self.inputs = variant.inputs or _specs(session.get_inputs())
        self.outputs = variant.outputs or _specs(session.get_outputs())
        self.placement = placement
        self._session = session
        self._names = [spec.name for spec in self.outputs]

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise UnavailableError("this session is closed")
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
            onnxruntime = require("onnxruntime", extra="onnxruntime")
        except MissingDependencyError as error:
            return Availability(ready=False, reason=str(error), hint=error.hint)
        providers = onnxruntime.get_available_providers()
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
        provider = _PROVIDERS[device]
        session = _create(folder / variant.files[0].path, provider, settings)
        return OnnxRuntimeSession(variant, session, _placement(session, device, variant.precision))


def _create(path: Path, provider: str, settings: dict[str, Any]) -> Any:
    onnxruntime = require("onnxruntime", extra="onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = int(settings.pop("threads", 0))
    for key, value in settings.items():
        options.add_session_config_entry(key, str(value))
    try:
        # The CPU is always named: the engine adds it by itself anyway, and now it is in the open.
        providers = list(dict.fromkeys([provider, _PROVIDERS["cpu"]]))
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime can not load {path.name}: {error}",
            hint="verify the bundle with: edge verify",
        ) from error


def _placement(session: Any, device: str, precision: str) -> Placement:
    """Fallback is silent in ONNX Runtime: compare what was asked for with what it reports."""
    wanted, got = _PROVIDERS[device], session.get_providers()
    is_fallback = wanted not in got
    actual = got[0]
    # Which node went to which provider is known for certain only where there is one provider.
    shares = {actual: 1.0} if len(got) == 1 else {}
    reason = f"{wanted} was dropped by ONNX Runtime while loading" if is_fallback else ""
    return Placement(device, actual, shares, precision, is_fallback=is_fallback, reason=reason)


def _specs(tensors: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            tensor.name,
            _DTYPES.get(tensor.type, tensor.type.removeprefix("tensor(").removesuffix(")")),
            tuple(
                dim if isinstance(dim, int) else dim or f"{tensor.name}_{axis}"
                for axis, dim in enumerate(tensor.shape)
            ),
        )
        for tensor in tensors
    )


BACKEND = OnnxRuntimeBackend()

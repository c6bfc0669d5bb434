"""OpenVINO on CPU, GPU and NPU; the device is always named, never AUTO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
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

_PRECISIONS = {"f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8"}
_MATRIX_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell")


class OpenVinoSession(Session):
    """A request runs one inference at a time, so each concurrent caller gets its own."""

    def __init__(self, variant: Variant, compiled: Any, placement: Placement) -> None:
        self.inputs = variant.inputs or _specs(compiled.inputs)
        self.outputs = variant.outputs or _specs(compiled.outputs)
        self.placement = placement
        self._compiled = compiled
        self._idle: list[Any] = []
        order = {name: i for i, port in enumerate(compiled.outputs) for name in port.get_names()}
        self._indices = [(spec.name, order[spec.name]) for spec in self.outputs]

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        compiled = self._compiled
        if compiled is None:
            raise UnavailableError("this session is closed")
        try:
            request = self._idle.pop() if self._idle else compiled.create_infer_request()
        except IndexError:  # another thread took the last one in between
            request = compiled.create_infer_request()
        try:
            # Inputs are read in place; outputs are copied, as the request's own are reused.
            results = request.infer(feeds, share_inputs=True, share_outputs=True)
            outputs = {name: results[index].copy() for name, index in self._indices}
        except Exception as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        self._idle.append(request)
        return outputs

    def close(self) -> None:
        self._compiled = None
        self._idle.clear()


class OpenVinoBackend:
    """Options: ``device`` (cpu, gpu, npu), ``threads``; others are OpenVINO properties."""

    name = "openvino"

    def availability(self) -> Availability:
        try:
            openvino = require("openvino", extra="openvino")
            devices = tuple(device.lower() for device in _core().available_devices)
        except MissingDependencyError as error:
            return Availability(ready=False, reason=str(error), hint=error.hint)
        except Exception as error:  # a broken driver must not break the list of engines
            return Availability(ready=False, reason=f"OpenVINO does not start: {error}")
        return Availability(
            ready=True, version=openvino.__version__.partition("-")[0], devices=devices
        )

    def open(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> OpenVinoSession:
        availability = self.availability()
        ensure_ready(self.name, availability)
        settings = {"PERFORMANCE_HINT": "LATENCY", **variant.options, **(options or {})}
        device = str(settings.pop("device", "cpu")).lower()
        if device not in availability.devices:
            raise UnavailableError(
                f"OpenVINO {availability.version} sees no {device} here, "
                f"only {', '.join(availability.devices)}",
                hint="install the driver of that device, or choose the device cpu",
            )
        if "threads" in settings:
            settings["INFERENCE_NUM_THREADS"] = int(settings.pop("threads"))
        path = folder / variant.files[0].path
        try:
            compiled = _core().compile_model(str(path), device.upper(), settings)
        except Exception as error:
            raise EngineError(
                f"OpenVINO can not load {path.name} on {device}: {error}",
                hint="verify the bundle with: edge verify",
            ) from error
        return OpenVinoSession(variant, compiled, _placement(compiled, device))


@cache
def _core() -> Any:
    return require("openvino", extra="openvino").Core()


def _placement(compiled: Any, device: str) -> Placement:
    actual = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
    is_fallback = device.upper() not in {name.partition(".")[0] for name in actual}
    return Placement(
        requested=device,
        actual=",".join(actual),
        shares={actual[0]: 1.0} if len(actual) == 1 else {},
        precision=_executed_precision(compiled),
        is_fallback=is_fallback,
        reason=f"OpenVINO placed the model on {', '.join(actual)}" if is_fallback else "",
    )


def _executed_precision(compiled: Any) -> str:
    """What the matrix kernels really compute in: most of them, as the engine reports it."""
    kernels: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _MATRIX_LAYERS:
            kernels[info["runtimePrecision"].astype(str)] += 1
    if kernels:
        executed = kernels.most_common(1)[0][0]
    else:
        executed = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return _PRECISIONS.get(executed, executed)


def _specs(ports: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            port.get_any_name(),
            port.get_element_type().to_dtype().name,
            tuple(
                dim.get_length() if dim.is_static else f"{port.get_any_name()}_{axis}"
                for axis, dim in enumerate(port.get_partial_shape())
            ),
        )
        for port in ports
    )


BACKEND = OpenVinoBackend()

"""OpenVINO on CPU, GPU and NPU; the device is always named, never AUTO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.core.contracts import Availability, Placement, Session, agreed, ensure_ready, main_file
from edge.core.errors import EngineError, MissingDependencyError, UnavailableError, UnsupportedError
from edge.core.lazy import require
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds

_PRECISIONS = {"f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8"}
_MATRIX_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell")
_DTYPES = {
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "boolean": "bool",
    "bf16": "bfloat16",
}


class OpenVinoSession(Session):
    """A request runs one inference at a time, so each concurrent caller gets its own."""

    def __init__(
        self,
        compiled: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        placement: Placement,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.placement = placement
        self._compiled = compiled
        self._idle: list[Any] = []
        index_of = {name: i for i, port in enumerate(compiled.outputs) for name in port.get_names()}
        self._indices = [(spec.name, index_of[spec.name]) for spec in outputs]

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        compiled = self._compiled
        if compiled is None:
            raise UnavailableError("this session is closed")
        try:
            request = self._take() or compiled.create_infer_request()
            # Inputs are read in place; outputs are copied, as the request's own are reused.
            results = request.infer(feeds, share_inputs=True, share_outputs=True).to_tuple()
            outputs = {name: results[index].copy() for name, index in self._indices}
        except Exception as error:
            raise EngineError(f"OpenVINO failed: {_brief(error)}") from error
        if self._compiled is not None:  # else it was closed meanwhile, and the request goes too
            self._idle.append(request)
        return outputs

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return None

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
            return Availability(ready=False, reason=f"OpenVINO does not start: {_brief(error)}")
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
            settings["INFERENCE_NUM_THREADS"] = settings.pop("threads")
        path = main_file(variant, folder)
        try:
            compiled = _core().compile_model(str(path), device.upper(), settings)
            inputs = tuple(_spec(port, variant.inputs) for port in compiled.inputs)
            outputs = tuple(_spec(port, variant.outputs) for port in compiled.outputs)
        except Exception as error:
            raise EngineError(
                f"OpenVINO can not load {path.name} on {device}: {_brief(error)}",
                hint="check the options that were given, and the bundle with: edge verify",
            ) from error
        _refuse_text((*inputs, *outputs))
        return OpenVinoSession(
            compiled,
            agreed(variant.inputs, inputs),
            agreed(variant.outputs, outputs),
            _placement(compiled, device, variant.precision),
        )


@cache
def _core() -> Any:
    return require("openvino", extra="openvino").Core()


def _placement(compiled: Any, device: str, precision: str) -> Placement:
    actual = [str(name).lower() for name in compiled.get_property("EXECUTION_DEVICES")]
    # One of several GPUs is gpu.0 here; asked for was gpu.
    is_fallback = device not in actual and device not in {n.partition(".")[0] for n in actual}
    return Placement(
        requested=device,
        actual=", ".join(actual),
        shares={actual[0]: 1.0} if len(actual) == 1 else {},
        precision=_executed_precision(compiled) or precision,
        is_fallback=is_fallback,
        reason=f"OpenVINO placed the model on {', '.join(actual)}" if is_fallback else "",
    )


def _executed_precision(compiled: Any) -> str:
    """What most of the matrix kernels compute in, as the engine reports it; empty if it does not.

    An FP32 file runs in BF16 on a CPU with AMX, unless the engine is told otherwise.
    """
    kernels: Counter[str] = Counter()
    try:
        for node in compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if "layerType" in info and info["layerType"].astype(str) in _MATRIX_LAYERS:
                kernels[info["runtimePrecision"].astype(str)] += 1
        if kernels:
            executed = kernels.most_common(1)[0][0]
        else:
            executed = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    except RuntimeError:  # a plugin need not have either; the NPU's has no runtime model
        return ""
    return _PRECISIONS.get(executed, executed)


def _spec(port: Any, declared: tuple[TensorSpec, ...]) -> TensorSpec:
    """A tensor can have several names: take the one that the manifest uses."""
    names = port.get_names()
    name = next((spec.name for spec in declared if spec.name in names), "") or port.get_any_name()
    element = port.get_element_type().get_type_name()
    dims = (
        dim.get_length() if dim.is_static else f"{name}_{axis}"
        for axis, dim in enumerate(port.get_partial_shape())
    )
    return TensorSpec(name, _DTYPES.get(element, element), tuple(dims))


def _refuse_text(specs: tuple[TensorSpec, ...]) -> None:
    """Text came back broken: with 2026.4.1, one run ended in ``free(): invalid pointer``."""
    for spec in specs:
        if spec.dtype == "string":
            raise UnsupportedError(
                f"tensor {spec.name!r} holds text, which is not run through OpenVINO",
                hint="use the engine onnxruntime",
            )


def _brief(error: Exception) -> str:
    """The message without the places in OpenVINO's own source where it came by."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Exception from "))


BACKEND = OpenVinoBackend()

"""OpenVINO IR: FP32, BF16 and FP16 by what the engine is told, INT8 through NNCF."""

from __future__ import annotations

import hashlib
from importlib import metadata, util
from pathlib import Path
from typing import Any

import msgspec

from converters._operators import openvino as operators
from converters._quantization import openvino_int8, openvino_sensitivity, weight_only_openvino
from converters._quantization.samples import require_samples
from converters._quantization.sensitivity import SAMPLES
from edge.core.contracts import (
    Availability,
    ConvertRequest,
    Finding,
    Recipe,
    Sensitivity,
    shape_findings,
)
from edge.core.errors import ModelError
from edge.core.lazy import require
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import DeviceProfile
from edge.core.tensor import Dim, TensorSpec

OvModel = Any
"""An ``openvino.Model``; the package has no type information."""

EXTRA = "convert"
CALIBRATOR = "calibrator"
ONNX = ".onnx"
FILES = ("model.xml", "model.bin")
HINT = "INFERENCE_PRECISION_HINT"
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32", "int4": "f32"}
"""What the engine computes floats in. It has to be told: on a CPU with AMX its own choice for an
FP32 file is BF16, silently."""

FP16_MAX = 65504.0


class OpenVINOConverter:
    """Writes IR files. What is fixed in the source model's shapes stays fixed."""

    name = "openvino"
    engine = "openvino"
    precisions = ("fp32", "bf16", "fp16", "int8", "int4")

    def availability(self) -> Availability:
        """Say whether OpenVINO and NNCF are installed."""
        missing = [name for name in ("openvino", "nncf") if util.find_spec(name) is None]
        if missing:
            return Availability(
                ready=False,
                reason=f"{' and '.join(missing)} not installed",
                hint=f"pip install 'edge-runtime[{EXTRA}]'",
            )
        return Availability(ready=True, version=metadata.version("openvino"))

    def check(self, model: Path, profile: DeviceProfile) -> list[Finding]:
        """Import the model and say what stands in the way."""
        try:
            imported = _import(model)
        except ModelError as error:
            nodes = operators.not_imported(model, error.__cause__) if model.suffix == ONNX else ()
            return [Finding("error", str(error), hint=error.hint, nodes=nodes)]
        found = shape_findings(_specs(imported.inputs), profile)
        return found or operators.device_findings(imported, profile)

    def recipes(self, precision: str) -> dict[str, Recipe]:
        """Several for INT8 and INT4."""
        if precision == "int8":
            return {**openvino_int8.RECIPES, **weight_only_openvino.INT8}
        return weight_only_openvino.INT4 if precision == "int4" else {"": Recipe()}

    def convert(self, request: ConvertRequest, into: Path) -> Variant:
        """Write ``model.xml`` and ``model.bin``."""
        openvino = require("openvino", extra=EXTRA)
        model = _import(request.model)
        inputs, outputs = _specs(model.inputs), _specs(model.outputs)
        for finding in shape_findings(inputs, request.profile):
            raise ModelError(finding.message, hint=finding.hint)
        built_with = {"openvino": metadata.version("openvino")}
        notes: tuple[str, ...] = ()
        if request.precision == "int4" or "method" in request.options:
            model, notes = weights_alone(inputs, request)
            built_with |= {"nncf": metadata.version("nncf")}
        elif request.precision == "int8":
            best, notes = to_int8(inputs, request)
            model = best.model
            built_with |= {"nncf": metadata.version("nncf"), CALIBRATOR: best.estimator}
        is_halved = request.precision != "fp32" and _fits_fp16(model)
        openvino.save_model(model, into / FILES[0], compress_to_fp16=is_halved)
        return Variant(
            id=f"{self.engine}-{request.precision}",
            engine=self.engine,
            precision=request.precision,
            files=tuple(_entry(into / name) for name in FILES),
            inputs=inputs,
            outputs=outputs,
            options=_options(request),
            built_with=built_with,
            requires={"shapes": "static"} if request.profile.shapes.static else {},
            notes=notes,
        )

    def sensitivities(
        self, request: ConvertRequest, variant: Variant, folder: Path
    ) -> tuple[Sensitivity, ...]:
        """Rank what FakeQuantize operators feed; nothing in other variants."""
        if request.precision == "int4" or "method" in request.options:
            return ()
        samples = require_samples(request.calibration, variant.inputs, SAMPLES)
        return openvino_sensitivity.sensitivities(folder / FILES[0], request.model, list(samples))

    def excluding(self, variant: Variant, recipe: Recipe, nodes: tuple[str, ...]) -> Recipe:
        """With the range estimator that won for ``variant``."""
        kept = {"estimators": [variant.built_with[CALIBRATOR]], "exclude": nodes}
        return msgspec.structs.replace(recipe, options={**recipe.options, **kept})

    def faster(self, variant: Variant, profile: DeviceProfile) -> tuple[Variant, ...]:
        """With what is left in float computed in BF16, where the device has it."""
        if variant.options.get(HINT) != HINTS["fp32"] or "bf16" not in profile.precision.legal:
            return ()
        options = {**variant.options, HINT: HINTS["bf16"]}
        return (msgspec.structs.replace(variant, id=f"{variant.id}-bf16", options=options),)


def weights_alone(
    inputs: tuple[TensorSpec, ...], request: ConvertRequest
) -> tuple[OvModel, tuple[str, ...]]:
    """Weights in few bits and the notes on it; samples are used where the recipe asks for them."""
    if request.model.suffix != ONNX:
        raise ModelError("weight-only quantization starts from ONNX", hint="take static int8")
    tuning = weight_only_openvino.tuning_of(request.precision, request.options)
    model = require("onnx", extra=EXTRA).load_model(request.model)
    samples = None
    if tuning.is_aware:
        samples = require_samples(request.calibration, inputs, tuning.samples)
    return weight_only_openvino.quantize(model, tuning, samples)


def to_int8(
    inputs: tuple[TensorSpec, ...], request: ConvertRequest
) -> tuple[openvino_int8.Candidate, tuple[str, ...]]:
    """Static INT8 and the notes on it."""
    tuning = openvino_int8.tuning_of(request.options)
    samples = require_samples(request.calibration, inputs, tuning.samples)
    model: Any = request.model
    if model.suffix == ONNX:
        model = require("onnx", extra=EXTRA).load_model(model)
    best = openvino_int8.quantize(
        model, samples, tuning, may_overflow=may_overflow(request.profile)
    )
    if not any(op.get_type_name() == "FakeQuantize" for op in best.model.get_ops()):
        raise ModelError(
            "the model has no convolution or matrix product that int8 applies to",
            hint="keep it in fp32 or bf16",
        )
    return best, (
        *samples.notes,
        f"ranges by {best.estimator}, "
        f"{best.closeness_db:.1f} dB from float on the calibration samples",
    )


def may_overflow(profile: DeviceProfile, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the device can be an x86 without VNNI, whose 16-bit sums of products saturate.

    Only of the machine at hand is it known. Halving the first layer's weights against it costs
    3 dB on SqueezeNet.
    """
    if profile.device.arch in ("aarch64", "arm64"):
        return False
    if not profile.device.probed:
        return True
    try:
        return "vnni" not in cpuinfo.read_text()
    except OSError:
        return True


def _options(request: ConvertRequest) -> dict[str, Any]:
    """What the engine must be told; an NPU has one float precision and takes no other."""
    on_npu = request.profile.runtimes.options.get("openvino", {}).get("device") == "NPU"
    return {HINT: "f16" if on_npu else HINTS[request.precision]}


def _import(path: Path) -> OvModel:
    """Read an ONNX file and fold what is constant.

    ``convert_model`` alone would try its other frontends on a broken file, and they print.
    """
    openvino = require("openvino", extra=EXTRA)
    try:
        openvino.Core().read_model(path)
        return openvino.convert_model(path)
    except Exception as error:  # RuntimeError, OpConversionFailure, ovc's own Error
        raise ModelError(
            f"OpenVINO can not import {path.name}: {_reason(error)}",
            hint="leave this engine out, or export the model without what it names",
        ) from error


def _reason(error: Exception) -> str:
    """What could not be converted, and the first node of it; the rest names OpenVINO's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [
        line.lstrip("- ").split(": Check ")[0]
        for line in lines
        if line.startswith("-- Conversion is failed for") or "validating ONNX node" in line
    ]
    return "; ".join(telling[-1:] + telling[:1]) or (lines or ["no reason given"])[-1]


def _fits_fp16(model: OvModel) -> bool:
    """Whether no constant leaves FP16's range; saving would clamp those that do."""
    np = require("numpy", extra=EXTRA)
    constants = (op for op in model.get_ops() if op.get_type_name() == "Constant")
    return all(
        constant.data.size == 0 or float(np.abs(constant.data).max()) <= FP16_MAX
        for constant in constants
        if constant.get_element_type().get_type_name() == "f32"
    )


def _specs(ports: list[Any]) -> tuple[TensorSpec, ...]:
    np = require("numpy", extra=EXTRA)
    specs = []
    for port in ports:
        name = port.get_any_name()
        kind = port.get_element_type()
        dtype = "string" if kind.get_type_name() == "string" else np.dtype(kind.to_dtype()).name
        specs.append(TensorSpec(name, dtype, _shape(name, port.get_partial_shape())))
    return tuple(specs)


def _shape(name: str, shape: Any) -> tuple[Dim, ...]:
    """OpenVINO forgets what axes were called."""
    if shape.rank.is_dynamic:
        return ()
    return tuple(
        dim.get_length() if dim.is_static else f"{name}_axis{axis}"
        for axis, dim in enumerate(shape)
    )


def _entry(path: Path) -> FileEntry:
    data = path.read_bytes()
    return FileEntry(path.name, hashlib.sha256(data).hexdigest(), len(data))


CONVERTER = OpenVINOConverter()

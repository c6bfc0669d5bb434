"""Portable graphs for TensorRT: precision is written in, a build plan lies beside.

The engine itself is built on the device, where it belongs: it fits one GPU and one build of
TensorRT.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from converters._operators import tensorrt as operators
from converters._operators.opsets import opset_of, pin
from converters._quantization import onnx_int8, onnx_sensitivity
from converters._quantization.samples import CalibrationSamples, require_samples
from converters._quantization.sensitivity import SAMPLES
from converters._tensorrt import half, planning, quantizing, rules, trial, weights
from converters._tensorrt.calibration import peaks
from converters._tensorrt.emulation import OPTIONS, emulated
from converters._tensorrt.network import has_subgraphs
from edge.core.build import PLAN_FILE, BuildPlan
from edge.core.contracts import (
    Availability,
    ConvertRequest,
    Finding,
    Recipe,
    Sensitivity,
    shape_findings,
)
from edge.core.errors import EngineError, MissingDependencyError, ModelError
from edge.core.lazy import require
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import DeviceProfile
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.core.tensor import Feeds

EXTRA = "convert"
FILE = "model.onnx"
SEEN = 32
"""Samples that say how large values get, and how long dynamic axes."""

SAID = 160
"""Characters of a builder's complaint that go into a note: some are a screen long."""

OPSETS = {"half scales": 19, "int4": 21, "bf16": 22, "scales per channel": 13}
"""The opset that each begins with. Without half scales, QuantizeLinear takes and gives FP32 only,
and so does what lies around it."""


class TensorRtConverter:
    """Writes ONNX files that TensorRT's parser takes as they are, strongly typed where it can."""

    name = "tensorrt"
    engine = "tensorrt"
    precisions = ("fp32", "bf16", "fp16", "int8", "fp8", "int4")

    def availability(self) -> Availability:
        """Say whether onnx and ONNX Runtime are installed; TensorRT itself is not needed."""
        try:
            for module in ("onnx", "onnxruntime"):
                require(module, extra=EXTRA)
        except MissingDependencyError as error:
            return Availability(ready=False, reason=str(error), hint=error.hint)
        return Availability(ready=True, version=metadata.version("onnx"))

    def check(self, model: Path, profile: DeviceProfile) -> list[Finding]:
        """Say what TensorRT's parser will refuse; TensorRT-RTX is asked where it is installed."""
        if model.suffix != Path(FILE).suffix:
            hint = "convert it to ONNX first, or choose an OpenVINO target"
            return [Finding("error", f"TensorRT does not read {model.suffix}", hint=hint)]
        try:
            graph = _load(model)
        except ModelError as error:
            return [Finding("error", str(error), hint=error.hint)]
        found = [*shape_findings(_specs(graph.graph.input), profile), *operators.findings(graph)]
        asked = trial.parse(model) if trial.is_possible() and not found else None
        if asked is not None and asked.error:
            message = f"the parser of TensorRT-RTX {asked.version}: {asked.error}"
            found.append(Finding("warning", message, nodes=asked.nodes))
        return found

    def recipes(self, precision: str) -> dict[str, Recipe]:
        """Several for INT8."""
        if precision == "int8":
            return onnx_int8.RECIPES
        if precision == "fp8":
            return {"": Recipe(needs_samples=True)}
        return {"": Recipe(takes_samples=True)}

    def convert(self, request: ConvertRequest, into: Path) -> Variant:
        """Write ``model.onnx`` and ``plan.json``."""
        model = _load(request.model)
        inputs, outputs = _specs(model.graph.input), _specs(model.graph.output)
        for finding in shape_findings(inputs, request.profile):
            raise ModelError(finding.message, hint=finding.hint)
        samples: list[Feeds] = []
        if request.calibration is not None:
            samples = list(CalibrationSamples(request.calibration, inputs, SEEN))
        notes: tuple[str, ...] = ()
        if request.precision in ("int8", "fp8"):
            model, notes = _quantized(model, inputs, request)
        elif request.precision == "int4":
            model, notes = _with_int4(_raised(model, OPSETS["int4"], request), samples)
        elif request.precision == "bf16":
            model = half.to_bfloat(_raised(model, OPSETS["bf16"], request))
        elif request.precision == "fp16":
            model, notes = _half(model, samples)
        pin(model, request.profile)
        _prove(model, samples)
        plan = planning.plan_for(model, inputs, samples, request)
        if request.build.refit and not plan.is_refittable:
            notes = (*notes, "not refittable: scales and quantized weights are part of the engine")
        files = (
            _write(into / FILE, model.SerializeToString()),
            _write(into / PLAN_FILE, msgspec.json.format(msgspec.json.encode(plan))),
        )
        return Variant(
            id=f"{self.engine}-{request.precision}",
            engine=self.engine,
            precision=request.precision,
            files=files,
            inputs=inputs,
            outputs=outputs,
            options={"device": "gpu"},
            built_with={name: metadata.version(name) for name in ("onnx", "onnxruntime")},
            requires={"tensorrt": planning.required_version(request.profile)},
            notes=(*notes, *_tried(into / FILE, plan, request.precision)),
        )

    def sensitivities(
        self, request: ConvertRequest, variant: Variant, folder: Path
    ) -> tuple[Sensitivity, ...]:
        """Rank what pairs surround; nothing in other variants."""
        if request.precision != "int8":
            return ()
        samples = require_samples(request.calibration, variant.inputs, SAMPLES)
        model = _load(folder / FILE)
        return onnx_sensitivity.sensitivities(emulated(model), list(samples))

    def excluding(self, variant: Variant, recipe: Recipe, nodes: tuple[str, ...]) -> Recipe:
        """Ranges are found anew: all of them cost two passes over the samples."""
        return msgspec.structs.replace(recipe, options={**recipe.options, "exclude": nodes})

    def faster(self, variant: Variant, profile: DeviceProfile) -> tuple[Variant, ...]:
        """None: what INT8 leaves in float is in FP16 already."""
        return ()

    def emulation(self, variant: Variant, folder: Path, into: Path) -> Variant:
        """The same graph with its roundings written out in FP32, for ONNX Runtime on the CPU."""
        model = emulated(_load(folder / FILE))
        entry = _write(into / FILE, model.SerializeToString())
        return msgspec.structs.replace(
            variant, engine="onnxruntime", files=(entry,), options=dict(OPTIONS), requires={}
        )


def _load(path: Path) -> ModelProto:
    onnx = require("onnx", extra=EXTRA)
    try:
        model: ModelProto = onnx.load_model(path)
    except Exception as error:  # protobuf's DecodeError, whose home differs between versions
        raise ModelError(f"{path.name} is no ONNX model, or is damaged") from error
    return model


def _half(model: ModelProto, samples: list[Feeds]) -> tuple[ModelProto, tuple[str, ...]]:
    found = peaks(model, quantizing.float_tensors(model), samples) if samples else {}
    halved = half.to_half(model, half.out_of_range(model, found))
    unknown = () if samples else ("no samples: values that leave FP16's range were not looked for",)
    return halved.model, (*unknown, *_kept(halved.kept))


def _with_int4(model: ModelProto, samples: list[Feeds]) -> tuple[ModelProto, tuple[str, ...]]:
    halved, notes = _half(model, samples)
    count = weights.quantize(model, halved)
    return halved, (f"weights of {count} matrix products in int4, the rest in fp16", *notes)


def _quantized(
    model: ModelProto, inputs: tuple[TensorSpec, ...], request: ConvertRequest
) -> tuple[ModelProto, tuple[str, ...]]:
    tuning = quantizing.tuning_of(request.options)
    samples = require_samples(request.calibration, inputs, tuning.samples)
    is_typed = planning.is_strongly_typed(request.profile)
    takes_half = is_typed and "fp16" in request.profile.precision.legal
    has_half = takes_half and request.profile.onnx.opset >= OPSETS["half scales"]
    has_half = has_half and not has_subgraphs(model)
    needs_new = has_half or request.precision == "fp8"
    model = _raised(model, OPSETS["half scales" if needs_new else "scales per channel"], request)
    form = quantizing.Form(request.precision, has_half, has_weight_pairs=not is_typed)
    best = quantizing.quantize(model, list(samples), tuning, form)
    left = [name for name in best.placement.left_alone if name not in tuning.exclude]
    notes = [
        *samples.notes,
        f"{best.ranges}, {best.closeness_db:.1f} dB from float on the calibration samples",
        f"{len(best.placement.layers)} layers in {request.precision}, {len(left)} left alone as "
        f"too small or no product with weights, the rest in {'fp16' if has_half else 'fp32'}",
    ]
    return best.model, (*notes, *_kept(best.in_float))


def _kept(in_float: dict[str, str]) -> tuple[str, ...]:
    if not in_float:
        return ()
    name, why = next(iter(in_float.items()))
    return (f"{len(in_float)} nodes stay in fp32 for their range, as {name}: {why}",)


def _raised(model: ModelProto, opset: int, request: ConvertRequest) -> ModelProto:
    onnx = require("onnx", extra=EXTRA)
    profile = request.profile
    if opset_of(model) >= opset:
        return model
    if opset > profile.onnx.opset:
        raise ModelError(
            f"{request.precision} needs opset {opset}, {profile.name} takes up to "
            f"{profile.onnx.opset}"
        )
    try:
        raised: ModelProto = onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # the C++ side raises RuntimeError, ConvertError and others
        raise ModelError(
            f"{request.precision} needs opset {opset}; the model's {opset_of(model)} can not be "
            f"raised: {str(error).strip().splitlines()[0]}",
            hint="export it again with a newer opset",
        ) from error
    return raised


def _prove(model: ModelProto, samples: list[Feeds]) -> None:
    """That a graph breaks a rule is a defect of ours, and not for a device to find out."""
    for finding in rules.check(model, samples[0] if samples else None):
        raise EngineError(
            f"the graph for TensorRT breaks a rule: {finding.message}: {finding.nodes}"
        )


def _tried(path: Path, plan: BuildPlan, precision: str) -> tuple[str, ...]:
    """What TensorRT-RTX makes of the graph, where it is installed."""
    if not trial.is_possible():
        return ()
    tried = trial.try_out(path, plan, trial.CAPABILITIES.get(precision, trial.AMPERE))
    said = f"does not build it: {tried.error[:SAID]}" if tried.error else "builds it without a GPU"
    return (f"TensorRT-RTX {tried.version} {said}",)


def _write(path: Path, data: bytes) -> FileEntry:
    path.write_bytes(data)
    return FileEntry(path.name, hashlib.sha256(data).hexdigest(), len(data))


def _specs(values: Any) -> tuple[TensorSpec, ...]:
    """Describe what a graph takes or gives."""
    onnx = require("onnx", extra=EXTRA)
    return tuple(
        TensorSpec(
            value.name,
            "string"
            if value.type.tensor_type.elem_type == onnx.TensorProto.STRING
            else onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(
                dim.dim_value or dim.dim_param or f"{value.name}_axis{axis}"
                for axis, dim in enumerate(value.type.tensor_type.shape.dim)
            ),
        )
        for value in values
    )


CONVERTER = TensorRtConverter()

"""ONNX files for ONNX Runtime: FP32, FP16 by casts, INT8 by QuantizeLinear pairs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from converters._operators import onnxruntime as operators
from converters._operators.opsets import opset_of, pin
from converters._quantization import (
    dynamic_onnx,
    onnx_int8,
    onnx_sensitivity,
    weight_only_onnx,
)
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
from edge.core.errors import MissingDependencyError, ModelError
from edge.core.lazy import require
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import DeviceProfile
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

EXTRA = "convert"
FILE = "model.onnx"

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

# ONNX Runtime 1.31.1 dies of SIGSEGV in this optimizer on some FP16 graphs (seen on nsnet2: GRU,
# Transpose, MatMul). It packs float convolutions, so it is left out only where it crashes.
WITHOUT_PACKING = {"optimization.disable_specified_optimizers": "NchwcTransformer"}


class OnnxConverter:
    """Writes ONNX files in the opset and IR version that the profile takes."""

    name = "onnx"
    engine = "onnxruntime"
    precisions = ("fp32", "fp16", "int8", "int4")

    def availability(self) -> Availability:
        """Say whether onnx and ONNX Runtime are installed."""
        try:
            for module in ("onnx", "onnxruntime"):
                require(module, extra=EXTRA)
        except MissingDependencyError as error:
            return Availability(ready=False, reason=str(error), hint=error.hint)
        return Availability(ready=True, version=metadata.version("onnxruntime"))

    def check(self, model: Path, profile: DeviceProfile) -> list[Finding]:
        """Load the model in ONNX Runtime and say what stands in the way."""
        if model.suffix != Path(FILE).suffix:
            hint = "convert it to ONNX first, or choose an OpenVINO target"
            return [Finding("error", f"ONNX Runtime does not read {model.suffix}", hint=hint)]
        try:
            opened = _open(model)
        except ModelError as error:
            nodes = operators.without_kernel(model, error.__cause__)
            hint = "export the model without these nodes, or in float32" if nodes else ""
            return [Finding("error", str(error), hint=hint, nodes=nodes)]
        found = shape_findings(_specs(opened.get_inputs()), profile)
        return [*found, *operators.fallback_findings(model, profile)]

    def recipes(self, precision: str) -> dict[str, Recipe]:
        """Several for INT8."""
        if precision == "int8":
            return {**onnx_int8.RECIPES, **weight_only_onnx.RECIPES, **dynamic_onnx.RECIPES}
        return {"": Recipe()}

    def convert(self, request: ConvertRequest, into: Path) -> Variant:
        """Write ``model.onnx``."""
        onnx = require("onnx", extra=EXTRA)
        source = _open(request.model)
        inputs = _specs(source.get_inputs())
        for finding in shape_findings(inputs, request.profile):
            raise ModelError(finding.message, hint=finding.hint)
        model = onnx.load_model(request.model)
        notes: tuple[str, ...] = ()
        options: dict[str, Any] = {}
        if request.precision == "fp16":
            model = to_fp16(model)
        elif request.precision == "int4" or "method" in request.options:
            model, notes = without_samples(model, request)
        elif request.precision == "int8":
            model, notes = to_int8(model, inputs, request)
        pin(model, request.profile)
        path = into / FILE
        path.write_bytes(model.SerializeToString())
        if request.precision == "fp16":
            options = _options_to_load(path)
        opened = _open(path, options)
        data = path.read_bytes()
        return Variant(
            id=f"{self.engine}-{request.precision}",
            engine=self.engine,
            precision=request.precision,
            files=(FileEntry(FILE, hashlib.sha256(data).hexdigest(), len(data)),),
            inputs=_specs(opened.get_inputs()),
            outputs=_specs(opened.get_outputs()),
            options=options,
            built_with={name: metadata.version(name) for name in ("onnx", "onnxruntime")},
            notes=notes,
        )

    def sensitivities(
        self, request: ConvertRequest, variant: Variant, folder: Path
    ) -> tuple[Sensitivity, ...]:
        """Rank what QuantizeLinear pairs surround; nothing in other variants."""
        if request.precision == "int4" or "method" in request.options:
            return ()
        samples = require_samples(request.calibration, variant.inputs, SAMPLES)
        model = require("onnx", extra=EXTRA).load_model(folder / FILE)
        return onnx_sensitivity.sensitivities(model, list(samples))

    def excluding(self, variant: Variant, recipe: Recipe, nodes: tuple[str, ...]) -> Recipe:
        """Ranges are found anew: all of them cost one pass over the samples."""
        return msgspec.structs.replace(recipe, options={**recipe.options, "exclude": nodes})

    def faster(self, variant: Variant, profile: DeviceProfile) -> tuple[Variant, ...]:
        """None: what is float in the file is computed as it is written."""
        return ()


def to_fp16(model: ModelProto) -> ModelProto:
    """Weights and computation in FP16; inputs and outputs keep their types."""
    float16 = require("onnxruntime.transformers.float16", extra=EXTRA)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one per value that FP16 rounds to 0 or clamps
            converted: ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
    except AssertionError as error:
        raise ModelError(
            "the model can not be written in FP16: its If or Loop branches use the same names",
            hint="keep it in fp32",
        ) from error
    except Exception as error:  # a walk over the graph that meets what it did not foresee
        raise ModelError(
            f"the model can not be written in FP16: {_first_line(error)}", hint="keep it in fp32"
        ) from error
    return converted


def without_samples(
    model: ModelProto, request: ConvertRequest
) -> tuple[ModelProto, tuple[str, ...]]:
    """Matrix products with weights in few bits, and the notes on it."""
    if request.options.get("method") == "dynamic":
        with tempfile.TemporaryDirectory(prefix="edge-int8-") as folder:
            return dynamic_onnx.quantize(model, request.options, Path(folder))
    tuning = weight_only_onnx.tuning_of(request.precision, request.options)
    return model, weight_only_onnx.quantize(model, tuning)


def to_int8(
    model: ModelProto, inputs: tuple[TensorSpec, ...], request: ConvertRequest
) -> tuple[ModelProto, tuple[str, ...]]:
    """Static INT8 and the notes on it; signed activations for Arm, unsigned for x86."""
    tuning = onnx_int8.tuning_of(request.options)
    samples = require_samples(request.calibration, inputs, tuning.samples)
    opset = opset_of(model)
    if opset < onnx_int8.PER_CHANNEL_OPSET:
        raise ModelError(
            f"int8 needs opset {onnx_int8.PER_CHANNEL_OPSET}, the model is in {opset}",
            hint="export it again with a newer opset",
        )
    if not any(node.op_type in WEIGHTED for node in model.graph.node):
        raise ModelError(
            "int8 applies to nothing in the model, apart from what lies in If or Loop branches",
            hint="keep it in fp32",
        )
    with tempfile.TemporaryDirectory(prefix="edge-int8-") as folder:
        best = onnx_int8.quantize(
            model, samples, tuning, Path(folder), is_signed=_is_arm(request.profile)
        )
    quantized: ModelProto = best.model
    return quantized, (
        *samples.notes,
        f"{best.ranges}, {best.closeness_db:.1f} dB from float on the calibration samples",
    )


def _options_to_load(path: Path) -> dict[str, Any]:
    """Options with which the engine survives loading the file, tried in a process of its own."""
    for options in ({}, WITHOUT_PACKING):
        code = (
            "import sys, json, onnxruntime as o; s = o.SessionOptions(); s.log_severity_level = 4\n"
            "for entry in json.loads(sys.argv[2]).items(): s.add_session_config_entry(*entry)\n"
            "o.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider'])"
        )
        command = [sys.executable, "-c", code, str(path), json.dumps(options)]
        if subprocess.run(command, capture_output=True, check=False).returncode >= 0:
            return dict(options)  # it loads, or is refused with a reason, which _open will tell
    raise ModelError("ONNX Runtime crashes as it loads the model in FP16", hint="keep it in fp32")


def _open(path: Path, entries: Mapping[str, Any] | None = None) -> Any:
    onnxruntime = require("onnxruntime", extra=EXTRA)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, str(value))
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # pybind's exceptions share no base but Exception
        raise ModelError(
            f"ONNX Runtime can not load {path.name}: {_first_line(error)}",
            hint="see what the file holds with: edge check",
        ) from error


def _is_arm(profile: DeviceProfile) -> bool:
    return profile.device.arch in ("aarch64", "arm64")


def _specs(tensors: list[Any]) -> tuple[TensorSpec, ...]:
    """Describe what an ONNX Runtime session takes or gives."""
    return tuple(
        TensorSpec(
            tensor.name,
            _DTYPES.get(tensor.type, tensor.type.removeprefix("tensor(").removesuffix(")")),
            tuple(
                dim if isinstance(dim, int) else dim or f"{tensor.name}_axis{axis}"
                for axis, dim in enumerate(tensor.shape)
            ),
        )
        for tensor in tensors
    )


_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


CONVERTER = OnnxConverter()

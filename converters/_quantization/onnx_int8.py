"""INT8 for ONNX Runtime: even channels, several calibrations, true biases, the best one kept."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from converters._quantization.closeness import JUDGED, closeness_db
from converters._quantization.refinement import refine
from converters._quantization.samples import CalibrationSamples
from converters._quantization.statistics import open_session
from edge.core.errors import InputError, ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from edge.core.tensor import Array, Feeds

log = logging.getLogger(__name__)

Range = tuple["np.float32", "np.float32"]

PER_CHANNEL_OPSET = 13


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be tuned with ``ConvertRequest.options``.

    ``percentiles`` are the shares of values, in percent, that a range has to hold; each is tried
    and the one whose answers are nearest to the float model's is kept. ``exclude`` names nodes
    that stay in float.
    """

    percentiles: tuple[float, ...] = (99.999, 99.99)
    refine: bool = True
    reduce_range: bool = False
    samples: int = 100
    exclude: tuple[str, ...] = ()


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """Read the tuning options of a request."""
    try:
        return msgspec.convert(dict(options), Recipe)
    except msgspec.ValidationError as error:
        raise InputError(f"int8 for ONNX Runtime: {error}") from error


class Candidate(msgspec.Struct, frozen=True):
    """One quantized model, and how near its answers are to the float model's, in dB."""

    model: Any
    percentile: float
    closeness_db: float


def quantize(
    model: ModelProto,
    samples: CalibrationSamples,
    recipe: Recipe,
    work: Path,
    *,
    is_signed: bool,
) -> Candidate:
    """Quantize a float model whose opset is 13 or more.

    Args:
        work: A folder for intermediate files, the caller's to delete.
        is_signed: Activations as int8 (Arm, TensorRT) or uint8 (x86).
    Raises:
        ModelError: There is nothing in it to quantize, or the quantizer fails.
    """
    onnx = require("onnx", extra="convert")
    judged = [feeds for feeds, _ in zip(samples, range(JUDGED), strict=False)]
    expected = _answers(model, judged)
    if recipe.refine:
        refine(model, judged, even_channels=True)
    path = work / "float.onnx"
    # Else it asks, on the root logger, for the pre-processing that has been done.
    require("onnxruntime.quantization.quant_utils", extra="convert").add_pre_process_metadata(model)
    onnx.save_model(model, path)
    best: Candidate | None = None
    for percentile, ranges in _calibrations(path, work, samples, recipe.percentiles):
        quantized = _quantize_static(path, ranges, recipe, judged[0], is_signed=is_signed)
        closeness = closeness_db(expected, _answers(quantized, judged))
        log.info("percentile %s: %.1f dB from float", percentile, closeness)
        if best is None or closeness > best.closeness_db:
            best = Candidate(quantized, percentile, closeness)
    if best is None:
        raise InputError("int8 for ONNX Runtime: percentiles names none")
    return best


def _calibrations(
    path: Path, work: Path, samples: CalibrationSamples, percentiles: tuple[float, ...]
) -> Iterator[tuple[float, dict[str, Range]]]:
    """The range of every activation, by percentile; the samples are gone through once."""
    np = require("numpy", extra="convert")
    calibrate = require("onnxruntime.quantization.calibrate", extra="convert")
    with contextlib.redirect_stdout(io.StringIO()):  # the calibrators print
        calibrator = calibrate.create_calibrator(
            path,
            _op_types(),
            augmented_model_path=str(work / "calibration.onnx"),
            calibrate_method=calibrate.CalibrationMethod.Percentile,
            extra_options={"symmetric": False},
        )
        for feeds in samples:
            # One by one: all activations of a call are held in memory at once.
            calibrator.collect_data(_Reader([feeds]))
    for percentile in percentiles:
        calibrator.collector.percentile = percentile
        with contextlib.redirect_stdout(io.StringIO()):
            data = calibrator.compute_data().data
        yield (
            percentile,
            {
                name: (np.float32(min(0, v.range_value[0])), np.float32(max(0, v.range_value[1])))
                for name, v in data.items()
            },
        )


def _quantize_static(
    path: Path, ranges: dict[str, Range], recipe: Recipe, feeds: Feeds, *, is_signed: bool
) -> ModelProto:
    onnx = require("onnx", extra="convert")
    quantization = require("onnxruntime.quantization", extra="convert")
    target = path.with_name("int8.onnx")
    activation = quantization.QuantType.QInt8 if is_signed else quantization.QuantType.QUInt8
    try:
        quantization.quantize_static(
            path,
            target,
            _Reader([feeds]),  # the ranges are known: see TensorQuantOverrides
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_op_types(),
            per_channel=True,
            reduce_range=recipe.reduce_range,
            activation_type=activation,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=list(recipe.exclude),
            extra_options={
                "TensorQuantOverrides": {
                    name: [{"rmin": low, "rmax": high}] for name, (low, high) in ranges.items()
                }
            },
        )
    except Exception as error:  # it raises ValueError, RuntimeError, AssertionError, KeyError …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"ONNX Runtime can not quantize the model: {reason}") from error
    quantized: ModelProto = onnx.load_model(target)
    return quantized


def _op_types() -> list[str]:
    """What ONNX Runtime quantizes by default, in an order that is the same every time."""
    registry = require("onnxruntime.quantization.registry", extra="convert")
    return sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})


def _answers(model: ModelProto, samples: list[Feeds]) -> list[Mapping[str, Array]]:
    session = open_session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(f)), strict=True)) for f in samples]


class _Reader:
    """Samples as ONNX Runtime's calibrators take them."""

    def __init__(self, samples: list[Feeds]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, Array] | None:
        feeds = next(self._samples, None)
        return None if feeds is None else dict(feeds)

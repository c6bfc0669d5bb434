"""INT8 for ONNX Runtime: even channels, several calibrations, true biases, the best one kept."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from converters._quantization.attention import has_attention
from converters._quantization.closeness import JUDGED, closeness_db
from converters._quantization.onnx_sensitivity import answers
from converters._quantization.products import products_of
from converters._quantization.ranges import least_error
from converters._quantization.refinement import CAREFUL, PLAIN, even_out, refine
from converters._quantization.remembered import Remembered, key_of
from converters._quantization.samples import CalibrationSamples
from converters._quantization.smoothing import smooth
from converters._quantization.weight_only_onnx import quantize_tables
from edge.core.contracts import Recipe
from edge.core.errors import InputError, ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from edge.core.tensor import Array, Feeds

log = logging.getLogger(__name__)

Range = tuple["np.float32", "np.float32"]

PER_CHANNEL_OPSET = 13
ALIKE = 2.0

PRODUCTS = ["Gemm", "MatMul"]

SMOOTHED_ON = 32
"""Samples whose peaks say what to smooth: peaks of channels hardly differ between them."""

_known: Remembered[Any] = Remembered()


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be tuned with ``ConvertRequest.options``.

    ``ranges`` are the shares of values, in percent, that a range has to hold, or ``histogram`` for
    the range with the least error; each is tried and the one whose answers are nearest to the
    float model's is kept. ``exclude`` names nodes that stay in float.
    """

    ranges: tuple[float | Literal["histogram"], ...] = (99.999, 99.99)
    refine: bool = True
    reduce_range: bool = False
    samples: int = 100
    exclude: tuple[str, ...] = ()


RECIPES = {
    "": CAREFUL,
    "plain": PLAIN,
    "histogram": Recipe(
        {"ranges": [100.0, "histogram"]},
        needs_samples=True,
        is_repair=True,
        what="ranges by histogram or min-max",
    ),
}


def tuning_of(options: Mapping[str, Any]) -> Tuning:
    """Read the tuning options of a request."""
    try:
        return msgspec.convert(dict(options), Tuning)
    except msgspec.ValidationError as error:
        raise InputError(f"int8 for ONNX Runtime: {error}") from error


class Target(msgspec.Struct, frozen=True):
    """Which nodes of the float model at ``path`` are quantized; of some types ``only_inputs``."""

    path: Path
    op_types: list[str]
    is_signed: bool
    only_inputs: list[str] = []
    exclude: list[str] = []


class Candidate(msgspec.Struct, frozen=True):
    """One quantized model, and how near its answers are to the float model's, in dB."""

    model: Any
    ranges: str
    closeness_db: float


def quantize(
    model: ModelProto,
    samples: CalibrationSamples,
    tuning: Tuning,
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
    expected = answers(model, judged)
    target = Target(work / "float.onnx", _op_types(), is_signed)
    if has_attention(model):
        # Masks of -10,000 and what a Softmax gives have no place on one grid of 256 steps: with
        # all of it in INT8, MiniLM keeps the nearest neighbour of 19 % of its sentences.
        target = msgspec.structs.replace(
            target, op_types=PRODUCTS, only_inputs=PRODUCTS, exclude=_without_weights(model)
        )
        smooth(model, [feeds for feeds, _ in zip(samples, range(SMOOTHED_ON), strict=False)])
        if not tuning.exclude:  # a model that is repaired has no accuracy to spare
            quantize_tables(model)
    if tuning.refine:
        even_out(model, judged)
        refine(model, judged, tuning.exclude)
    # Of the rounded network: ranges of the float one cost a MobileNetV2 1.5 points of agreement.
    key = key_of(model, samples)
    histograms = _known.get(key, lambda: _histograms(model, samples, target))
    # Else it asks, on the root logger, for the pre-processing that has been done.
    require("onnxruntime.quantization.quant_utils", extra="convert").add_pre_process_metadata(model)
    onnx.save_model(model, target.path)
    best: Candidate | None = None
    for title, own_ranges in _calibrations(histograms, tuning):
        ranges = joined(model, own_ranges)
        quantized = _quantize_static(target, ranges, tuning, judged[0])
        closeness = closeness_db(expected, answers(quantized, judged))
        log.info("%s: %.1f dB from float", title, closeness)
        if best is None or closeness > best.closeness_db:
            best = Candidate(quantized, title, closeness)
    if best is None:
        raise InputError("int8 for ONNX Runtime: ranges names none")
    return best


def _without_weights(model: ModelProto) -> list[str]:
    """Products of two activations, by name."""
    weighted = {product.node.name for product in products_of(model.graph)}
    products = [node.name for node in model.graph.node if node.op_type in PRODUCTS]
    return [name for name in products if name not in weighted]


def _histograms(model: ModelProto, samples: CalibrationSamples, target: Target) -> Any:
    """What ONNX Runtime's calibrator collects of every activation."""
    onnx = require("onnx", extra="convert")
    calibrate = require("onnxruntime.quantization.calibrate", extra="convert")
    path = target.path.with_name("calibrated.onnx")
    onnx.save_model(model, path)
    with contextlib.redirect_stdout(io.StringIO()):  # the calibrators print
        calibrator = calibrate.create_calibrator(
            path,
            target.op_types,
            augmented_model_path=str(path.with_name("calibration.onnx")),
            calibrate_method=calibrate.CalibrationMethod.Percentile,
            extra_options={"symmetric": False},
        )
        for feeds in samples:
            # One by one: all activations of a call are held in memory at once.
            calibrator.collect_data(_Reader([feeds]))
    return calibrator.collector


def _calibrations(collector: Any, tuning: Tuning) -> Iterator[tuple[str, dict[str, Range]]]:
    """Ways to set the ranges of the activations, by name."""
    for ranges in tuning.ranges:
        if ranges == "histogram":
            found = {
                name: least_error(counts, edges)
                for name, (counts, edges, *_) in collector.histogram_dict.items()
            }
            yield "ranges by the error of a histogram", _with_zero(found)
        else:
            collector.percentile = ranges
            with contextlib.redirect_stdout(io.StringIO()):
                found = {k: v[:2] for k, v in collector.compute_collection_result().items()}
            yield f"ranges hold {ranges:g} % of the values", _with_zero(found)


def joined(model: ModelProto, ranges: dict[str, Range]) -> dict[str, Range]:
    """One range for what a Concat puts together, so that it copies and need not scale anew.

    Only where the largest is at most ``ALIKE`` times the smallest: a wider range is a coarser one.
    """
    found = dict(ranges)
    for node in model.graph.node:
        names = [*node.input, *node.output]
        if node.op_type != "Concat" or any(name not in found for name in names):
            continue
        extents = [float(high) - float(low) for low, high in (found[name] for name in names)]
        if max(extents) <= ALIKE * min(extents):
            lows, highs = zip(*(found[name] for name in names), strict=True)
            found.update(dict.fromkeys(names, (min(lows), max(highs))))
    return found


def _with_zero(ranges: Mapping[str, tuple[float, float]]) -> dict[str, Range]:
    """Zero must be exact: it is what convolutions pad with."""
    np = require("numpy", extra="convert")
    return {
        name: (np.float32(min(0, low)), np.float32(max(0, high)))
        for name, (low, high) in ranges.items()
    }


def _quantize_static(
    target: Target, ranges: dict[str, Range], tuning: Tuning, feeds: Feeds
) -> ModelProto:
    onnx = require("onnx", extra="convert")
    quantization = require("onnxruntime.quantization", extra="convert")
    path = target.path.with_name("int8.onnx")
    kinds = quantization.QuantType
    # It warns, on the root logger, of every norm whose weights have one axis only.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantization.quantize_static(
            target.path,
            path,
            _Reader([feeds]),  # the ranges are known: see TensorQuantOverrides
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=target.op_types,
            per_channel=True,
            reduce_range=tuning.reduce_range,
            activation_type=kinds.QInt8 if target.is_signed else kinds.QUInt8,
            weight_type=kinds.QInt8,
            nodes_to_exclude=[*tuning.exclude, *target.exclude],
            extra_options={
                "OpTypesToExcludeOutputQuantization": target.only_inputs,
                "TensorQuantOverrides": {
                    name: [{"rmin": low, "rmax": high}] for name, (low, high) in ranges.items()
                },
            },
        )
    except Exception as error:  # it raises ValueError, RuntimeError, AssertionError, KeyError …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"ONNX Runtime can not quantize the model: {reason}") from error
    finally:
        logging.disable(disabled)
    quantized: ModelProto = onnx.load_model(path)
    return quantized


def _op_types() -> list[str]:
    """What ONNX Runtime quantizes by default, in an order that is the same every time."""
    registry = require("onnxruntime.quantization.registry", extra="convert")
    return sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})


class _Reader:
    """Samples as ONNX Runtime's calibrators take them."""

    def __init__(self, samples: list[Feeds]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, Array] | None:
        feeds = next(self._samples, None)
        return None if feeds is None else dict(feeds)

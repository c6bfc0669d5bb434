"""INT8 for ONNX Runtime: even channels, several calibrations, true biases, the best one kept."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from converters._quantization.bias import correct_biases, correctable
from converters._quantization.equalization import depthwise_pairs, equalize
from converters._quantization.samples import CalibrationSamples
from converters._quantization.statistics import channel_statistics, open_session
from edge.core.errors import InputError, ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from edge.core.tensor import Array, Feeds

log = logging.getLogger(__name__)

Range = tuple["np.float32", "np.float32"]

PER_CHANNEL_OPSET = 13
JUDGED = 64
"""Samples on which the calibrations are compared."""


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be tuned with ``ConvertRequest.options``.

    ``percentiles`` are the shares of values, in percent, that a range has to hold; each is tried
    and the one whose answers are nearest to the float model's is kept. ``exclude`` names nodes
    that stay in float.
    """

    percentiles: tuple[float, ...] = (99.999, 99.99)
    equalize: bool = True
    correct_bias: bool = True
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
    prepare(model, samples, recipe)
    onnx = require("onnx", extra="convert")
    path = work / "even.onnx"
    # Else it asks, on the root logger, for the pre-processing that has been done.
    require("onnxruntime.quantization.quant_utils", extra="convert").add_pre_process_metadata(model)
    onnx.save_model(model, path)
    judged = [feeds for feeds, _ in zip(samples, range(JUDGED), strict=False)]
    expected = _answers(model, judged)
    means = _input_means(model, judged) if recipe.correct_bias else {}
    best: Candidate | None = None
    for percentile, ranges in _calibrations(path, work, samples, recipe.percentiles):
        quantized = _quantize_static(path, work, ranges, recipe, is_signed, judged[0])
        if recipe.correct_bias:
            correct_biases(quantized, model, means)
        closeness = closeness_db(expected, _answers(quantized, judged))
        log.info("percentile %s: %.1f dB from float", percentile, closeness)
        if best is None or closeness > best.closeness_db:
            best = Candidate(quantized, percentile, closeness)
    assert best is not None
    return best


def prepare(model: ModelProto, samples: CalibrationSamples, recipe: Recipe) -> None:
    """Name the nodes, give every convolution a bias to correct, and even out the channels."""
    onnx = require("onnx", extra="convert")
    np = require("numpy", extra="convert")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in weights:
            zeros = np.zeros(weights[node.input[1]].dims[0], np.float32)
            name = f"{node.name}/bias"
            model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, name))
            node.input.append(name)
    pairs = depthwise_pairs(model) if recipe.equalize else []
    if pairs:
        ranks = {pair.between: _rank(model, pair.second.input[1]) for pair in pairs}
        equalize(model, channel_statistics(model, ranks, samples).peaks)


def closeness_db(
    expected: list[Mapping[str, Array]], got: list[Mapping[str, Array]]
) -> float:
    """Signal to noise ratio in dB, the mean over the float outputs."""
    np = require("numpy", extra="convert")
    figures = []
    for name, first in expected[0].items():
        if first.dtype.kind != "f":
            continue
        signal = sum(float(np.square(e[name], dtype=np.float64).sum()) for e in expected)
        noise = sum(
            float(np.square(e[name] - g[name], dtype=np.float64).sum())
            for e, g in zip(expected, got, strict=True)
        )
        figures.append(10 * math.log10(max(signal, 1e-30) / max(noise, 1e-30)))
    return sum(figures) / len(figures) if figures else 0.0


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
        yield percentile, {
            name: (np.float32(min(0, v.range_value[0])), np.float32(max(0, v.range_value[1])))
            for name, v in data.items()
        }


def _quantize_static(
    path: Path,
    work: Path,
    ranges: dict[str, Range],
    recipe: Recipe,
    is_signed: bool,
    feeds: Feeds,
) -> ModelProto:
    onnx = require("onnx", extra="convert")
    quantization = require("onnxruntime.quantization", extra="convert")
    activation = quantization.QuantType.QInt8 if is_signed else quantization.QuantType.QUInt8
    try:
        quantization.quantize_static(
            path,
            work / "int8.onnx",
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
    quantized: ModelProto = onnx.load_model(work / "int8.onnx")
    return quantized


def _op_types() -> list[str]:
    """What ONNX Runtime quantizes by default, in an order that is the same every time."""
    registry = require("onnxruntime.quantization.registry", extra="convert")
    return sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})


def _input_means(model: ModelProto, samples: list[Feeds]) -> dict[str, Array]:
    layers = correctable(model).values()
    ranks = {node.input[0]: _rank(model, node.input[1]) for node in layers}
    return channel_statistics(model, ranks, samples).means


def _rank(model: ModelProto, weight: str) -> int:
    """Rank of the activation that ``weight`` is applied to."""
    return next(len(t.dims) for t in model.graph.initializer if t.name == weight)


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

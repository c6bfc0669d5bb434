"""From a float graph to one with Q/DQ pairs: ranges, rounding, and the best of several tries."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from converters._quantization.attention import has_attention
from converters._quantization.closeness import JUDGED, closeness_db
from converters._quantization.onnx_sensitivity import answers
from converters._quantization.refinement import even_out, refine
from converters._quantization.smoothing import smooth
from converters._tensorrt import half
from converters._tensorrt.calibration import Magnitudes, magnitudes, peaks
from converters._tensorrt.emulation import OPTIONS, emulated
from converters._tensorrt.network import inferred, network_of
from converters._tensorrt.placement import Placement, place
from converters._tensorrt.writing import joined, write
from edge.core.errors import InputError, ModelError

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.core.tensor import Feeds

log = logging.getLogger(__name__)


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be tuned with ``ConvertRequest.options``.

    ``ranges`` are the shares of values, in percent, that a range has to hold, or ``histogram`` for
    the range with the least error; the one whose answers are nearest to the float model's is kept.
    ``exclude`` names nodes that are not quantized.
    """

    ranges: tuple[float | Literal["histogram"], ...] = (99.999, 99.99)
    refine: bool = True
    samples: int = 100
    exclude: tuple[str, ...] = ()


class Form(msgspec.Struct, frozen=True):
    """How the result is to be written.

    ``has_half`` computes in FP16 what is not quantized; ``has_weight_pairs`` is for TensorRT 8.
    """

    precision: str
    has_half: bool
    has_weight_pairs: bool


class Quantized(msgspec.Struct, frozen=True):
    """The graph, how near its answers are to the float model's, and what to tell of it."""

    model: Any
    closeness_db: float
    ranges: str
    placement: Placement
    in_float: dict[str, str]


def tuning_of(options: Mapping[str, Any]) -> Tuning:
    """Read the tuning options of a request."""
    try:
        return msgspec.convert(dict(options), Tuning)
    except msgspec.ValidationError as error:
        raise InputError(f"int8 for TensorRT: {error}") from error


def float_tensors(model: ModelProto) -> list[str]:
    """Activations of the main graph that hold float32."""
    graph = inferred(model).graph
    return [
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == half.FLOAT
    ]


def quantize(model: ModelProto, samples: Sequence[Feeds], tuning: Tuning, form: Form) -> Quantized:
    """Quantize the float ``model``, which is changed.

    Raises:
        ModelError: Nothing in it gains by it.
    """
    judged = samples[:JUDGED]
    expected = answers(model, judged)
    if has_attention(model):
        smooth(model, samples)
    network = network_of(model, judged[0])
    placement = place(network, tuning.exclude)
    if not placement.layers:
        why = (
            "; ".join(dict.fromkeys(placement.left_alone.values()))
            or "it has none outside of If and Loop"
        )
        raise ModelError(
            f"{form.precision} pays in no layer of the model: {why}", hint="keep it in fp16"
        )
    if tuning.refine and form.precision == "int8":
        even_out(model, judged)
        refine(model, judged, {*tuning.exclude, *placement.left_alone})
    found = peaks(model, float_tensors(model), samples)
    measured = magnitudes(model, placement.tensors(network), samples, found)
    in_float = half.out_of_range(model, found) if form.has_half else {}
    base = half.to_half(model, in_float).model if form.has_half else model
    best: Quantized | None = None
    for title, limits in _limits(measured, tuning):
        graph = write(
            base,
            placement,
            joined(network, limits),
            form.precision,
            has_weight_pairs=form.has_weight_pairs,
        )
        closeness = closeness_db(expected, answers(emulated(graph), judged, OPTIONS))
        log.info("%s: %.1f dB from float", title, closeness)
        if best is None or closeness > best.closeness_db:
            best = Quantized(graph, closeness, title, placement, in_float)
    if best is None:
        raise InputError("int8 for TensorRT: ranges names none")
    return best


def _limits(measured: Magnitudes, tuning: Tuning) -> Iterator[tuple[str, dict[str, float]]]:
    for ranges in tuning.ranges:
        if ranges == "histogram":
            yield "ranges by the error of a histogram", measured.least_error()
        else:
            yield f"ranges hold {ranges:g} % of the values", measured.holding(ranges)

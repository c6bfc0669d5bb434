"""Weights of matrix products in 4 or 8 bits, activations in float, for OpenVINO through NNCF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from converters._quantization.openvino_int8 import imported, quiet
from converters._quantization.products import products_of, require_products
from converters._quantization.samples import CalibrationSamples
from edge.core.contracts import Recipe
from edge.core.errors import InputError, ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto

COUNTER = re.compile(r"_\d+")

OvModel = Any
"""An ``openvino.Model``; the package has no type information."""


INT8 = {"weights": Recipe({"method": "weights"})}
INT4 = {
    "": Recipe(),
    "aware": Recipe({"is_aware": True}, needs_samples=True),
}


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``block`` weights along the inputs share a scale; 8 bits have one scale per output.

    ``ratio`` of the weights take 4 bits and the others, those that lose most, 8: with all of them
    in 4 bits MiniLM's cosine to its float embeddings is 0.976, with half of them 0.994.
    If ``is_aware`` of samples, 4 bits get scales that keep what the products answer to them.
    """

    bits: int = 8
    block: int = 32
    ratio: float = 0.5
    is_aware: bool = False
    samples: int = 100
    method: Literal["weights"] = "weights"


def tuning_of(precision: str, options: Mapping[str, Any]) -> Tuning:
    """Read the tuning options of a request for ``int8`` or ``int4``."""
    try:
        return msgspec.convert({"bits": 4 if precision == "int4" else 8, **options}, Tuning)
    except msgspec.ValidationError as error:
        raise InputError(f"{precision} weights for OpenVINO: {error}") from error


def quantize(
    model: ModelProto, tuning: Tuning, samples: CalibrationSamples | None
) -> tuple[OvModel, tuple[str, ...]]:
    """Compress the weights, embedding tables too, and say in notes what was done.

    Raises:
        ModelError: The model has too few products, or NNCF refuses it.
    """
    share = require_products(model)
    with quiet():
        try:
            compressed = _compress(imported(model), tuning, samples, tuning.ratio)
            if not _rounded(compressed, tuning.bits):  # few and unlike products: no half to take
                compressed = _compress(imported(model), tuning, samples, 1.0)
        except InputError:
            raise
        except Exception as error:  # NNCF raises RuntimeError, its own errors and others
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"NNCF can not compress the weights: {reason}") from error
    if not _rounded(compressed, tuning.bits):
        raise ModelError(
            f"none of the weights can be kept in {tuning.bits} bits",
            hint="keep it in fp32 or bf16",
        )
    _name_by_place(compressed, {node.name for node in model.graph.node})
    detail = (
        f"blocks of {tuning.block}, 8 bits for those that lose most"
        if tuning.bits == 4
        else "a scale per output"
    )
    return compressed, (
        f"weights in {tuning.bits} bits, {detail}; the {len(products_of(model.graph))} matrix "
        f"products hold {share:.0%} of the weights apart from embedding tables",
    )


def _rounded(model: OvModel, bits: int) -> int:
    """How many weights are kept in ``bits``."""
    kinds = (f"u{bits}", f"i{bits}")
    return sum(
        op.get_type_name() == "Constant"
        and op.get_element_type().get_type_name() in kinds
        and len(op.get_output_shape(0)) > 1
        for op in model.get_ops()
    )


def _name_by_place(model: OvModel, kept: set[str]) -> None:
    """OpenVINO names new operators by a counter of the process, so that no two files are alike."""
    for place, op in enumerate(model.get_ordered_ops()):
        name, kind = op.get_friendly_name(), op.get_type_name()
        if kind not in ("Parameter", "Result") and name not in kept:
            op.set_friendly_name(f"{COUNTER.sub('', name)}_at_{place}")


def _compress(
    model: OvModel, tuning: Tuning, samples: CalibrationSamples | None, ratio: float
) -> OvModel:
    nncf = require("nncf", extra="convert")
    modes = nncf.CompressWeightsMode
    if tuning.bits == 8:
        return nncf.compress_weights(model, mode=modes.INT8_ASYM)
    parameters = require("nncf.quantization.advanced_parameters", extra="convert")
    advanced = parameters.AdvancedCompressionParameters(
        group_size_fallback_mode=parameters.GroupSizeFallbackMode.ADJUST,
        min_adjusted_group_size=8,
    )
    aware: dict[str, Any] = {}
    if samples is not None:
        aware = {
            "dataset": nncf.Dataset(samples),
            "subset_size": len(samples),
            "scale_estimation": True,
            "awq": True,
        }
    return nncf.compress_weights(
        model,
        mode=modes.INT4_ASYM,
        ratio=ratio,
        group_size=tuning.block,
        advanced_parameters=advanced,
        **aware,
    )

"""Dynamic INT8 for ONNX Runtime: weights rounded before, activations as they come."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters._quantization.products import products_of, require_products
from converters._quantization.weight_only_onnx import quantize_tables
from edge.core.contracts import Recipe
from edge.core.errors import InputError, ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto

RECIPES = {"dynamic": Recipe({"method": "dynamic"})}

LEAST_OPSET = 11
"""DynamicQuantizeLinear came with it."""


def quantize(
    model: ModelProto, options: Mapping[str, Any], work: Path
) -> tuple[ModelProto, tuple[str, ...]]:
    """A model with MatMulInteger for its products, and the notes on it.

    Args:
        work: A folder for intermediate files, the caller's to delete.
    Raises:
        ModelError: The model has too few products, or its opset is too old.
    """
    unknown = sorted(set(options) - {"method"})
    if unknown:
        raise InputError(f"dynamic int8 has no option {unknown[0]}")
    share = require_products(model)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise ModelError(
            f"dynamic int8 needs opset {LEAST_OPSET}, the model is in {opset}",
            hint="export it again with a newer opset",
        )
    onnx = require("onnx", extra="convert")
    quantization = require("onnxruntime.quantization", extra="convert")
    utilities = require("onnxruntime.quantization.quant_utils", extra="convert")
    count = len(products_of(model.graph))
    tables = quantize_tables(model)
    utilities.add_pre_process_metadata(model)  # else it asks for it on the root logger
    onnx.save_model(model, work / "float.onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        quantization.quantize_dynamic(
            work / "float.onnx",
            work / "int8.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    quantized: ModelProto = onnx.load_model(work / "int8.onnx")
    integer = sum(node.op_type == "MatMulInteger" for node in quantized.graph.node)
    if not integer:
        raise ModelError("ONNX Runtime's quantizer took none of the matrix products")
    return quantized, (
        f"{integer} of {count} matrix products in INT8 with a scale per output, activations "
        f"rounded as they come; they hold {share:.0%} of the weights apart from embedding tables"
        + tables,
    )

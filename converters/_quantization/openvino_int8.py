"""INT8 for OpenVINO through NNCF: several range estimators, the best result kept."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from converters._quantization.attention import has_attention
from converters._quantization.closeness import JUDGED, closeness_db
from converters._quantization.openvino_sensitivity import answers
from converters._quantization.refinement import CAREFUL, PLAIN, refine
from converters._quantization.samples import CalibrationSamples
from edge.core.contracts import Recipe
from edge.core.errors import InputError, ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto


OvModel = Any
"""An ``openvino.Model``; the package has no type information."""

log = logging.getLogger(__name__)

DEFAULT = "DEFAULT"


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be tuned with ``ConvertRequest.options``.

    ``estimators`` name members of NNCF's ``RangeEstimatorParametersSet``, or ``DEFAULT`` for what
    NNCF takes by itself; each is tried and the one whose answers are nearest to the float model's
    is kept. ``overflow_fix`` is a member of NNCF's ``OverflowFix``. ``exclude`` names nodes of the
    imported model that stay in float. ``model_type`` is a member of NNCF's ``ModelType``; where it
    is empty, a model with attention is taken for a transformer. ``preset`` is NNCF's: symmetric
    activations, 8 % faster on an x86 CPU (MobileNetV2, SqueezeNet), or asymmetric ones where they
    have both signs.
    """

    preset: Literal["PERFORMANCE", "MIXED"] = "PERFORMANCE"
    estimators: tuple[str, ...] = (DEFAULT, "HISTOGRAM")
    fast_bias_correction: bool = False
    overflow_fix: str = ""
    refine: bool = True
    samples: int = 100
    exclude: tuple[str, ...] = ()
    model_type: str = ""


RECIPES = {
    "": CAREFUL,
    "plain": PLAIN,
    "asymmetric": Recipe(
        {"preset": "MIXED"},
        needs_samples=True,
        is_repair=True,
        what="asymmetric activations",
    ),
    "asymmetric-plain": Recipe(
        {"preset": "MIXED", "refine": False},
        needs_samples=True,
        is_repair=True,
        what="asymmetric activations, plain rounding",
    ),
}


class Candidate(msgspec.Struct, frozen=True):
    """One quantized model, and how near its answers are to the float model's, in dB."""

    model: Any
    estimator: str
    closeness_db: float


def tuning_of(options: Mapping[str, Any]) -> Tuning:
    """Read the tuning options of a request."""
    try:
        return msgspec.convert(dict(options), Tuning)
    except msgspec.ValidationError as error:
        raise InputError(f"int8 for OpenVINO: {error}") from error


def quantize(
    model: ModelProto | Path, samples: CalibrationSamples, tuning: Tuning, *, may_overflow: bool
) -> Candidate:
    """Quantize a float model, its weights per channel.

    Args:
        model: An ONNX graph, or a file of another format, which is not refined.
        may_overflow: The device may be an x86 without VNNI, whose 16-bit sums can saturate.
    Raises:
        ModelError: NNCF refuses the model.
    """
    judged = [feeds for feeds, _ in zip(samples, range(JUDGED), strict=False)]
    expected = answers(imported(model), judged)
    if not isinstance(model, Path) and not tuning.model_type and has_attention(model):
        # It smooths the outliers of the activations, and leaves in float what attention needs so.
        # Full bias correction spoils it: MiniLM's cosine to its float embeddings is 0.912 with it,
        # and 0.997 with the fast one.
        tuning = msgspec.structs.replace(
            tuning, model_type="TRANSFORMER", preset="MIXED", fast_bias_correction=True
        )
    if not isinstance(model, Path) and tuning.refine:
        # Depthwise activations get a scale per channel here, so there is nothing to even out.
        refine(model, judged, onnx_names(tuning.exclude))
    best: Candidate | None = None
    for estimator in tuning.estimators:
        with quiet():
            try:
                quantized = _quantize(imported(model), samples, tuning, estimator, may_overflow)
            except InputError:
                raise
            except Exception as error:  # NNCF raises RuntimeError, its own errors and others
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ModelError(f"NNCF can not quantize the model: {reason}") from error
        closeness = closeness_db(expected, answers(quantized, judged))
        log.info("%s: %.1f dB from float", estimator, closeness)
        if best is None or closeness > best.closeness_db:
            best = Candidate(quantized, estimator, closeness)
    if best is None:
        raise InputError("int8 for OpenVINO: estimators names none")
    return best


def onnx_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of imported nodes as the ONNX file has them; a Conv with a bias becomes two."""
    return tuple(name.removesuffix("/WithoutBiases") for name in names)


def imported(model: ModelProto | Path) -> OvModel:
    """Import through a file. ``read_model`` would take bytes, but it leaves the weights of grouped
    convolutions behind a Reshape, and those then run in float: 1.5x the time on a MobileNetV2."""
    openvino = require("openvino", extra="convert")
    if isinstance(model, Path):
        return openvino.convert_model(model)
    with tempfile.TemporaryDirectory(prefix="edge-int8-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return openvino.convert_model(path)


def _quantize(
    model: OvModel,
    samples: CalibrationSamples,
    tuning: Tuning,
    estimator: str,
    may_overflow: bool,
) -> OvModel:
    nncf = require("nncf", extra="convert")
    parameters = require("nncf.quantization.advanced_parameters", extra="convert")
    ranges = require("nncf.quantization.range_estimator", extra="convert")
    chosen = (
        ranges.RangeEstimatorParameters()
        if estimator == DEFAULT
        else getattr(ranges.RangeEstimatorParametersSet, estimator)
    )
    fix = tuning.overflow_fix or ("FIRST_LAYER" if may_overflow else "DISABLE")
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset[tuning.preset],
        subset_size=len(samples),
        fast_bias_correction=tuning.fast_bias_correction,
        model_type=nncf.ModelType[tuning.model_type] if tuning.model_type else None,
        ignored_scope=nncf.IgnoredScope(names=list(tuning.exclude), validate=False),
        advanced_parameters=parameters.AdvancedQuantizationParameters(
            overflow_fix=parameters.OverflowFix[fix],
            activations_range_estimator_params=chosen,
        ),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep NNCF from printing on stdout, where it draws its progress."""
    with contextlib.redirect_stdout(io.StringIO()):
        _import_nncf()
        yield


def _import_nncf() -> None:
    """Import NNCF, which replaces the class of all loggers made later and logs on stdout."""
    logger_class = logging.getLoggerClass()
    # Where PyTorch is installed too, NNCF imports it, and it warns of CUDA compilers without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        require("nncf", extra="convert")
    finally:
        logging.setLoggerClass(logger_class)
    logger = logging.getLogger("nncf")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.ERROR)  # a line per layer about fallbacks that are as meant

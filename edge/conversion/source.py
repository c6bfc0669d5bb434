"""Reads a model file that may be broken, and writes the clean FP32 ONNX file converters take."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.conversion import graph, memory
from edge.conversion.external import identity
from edge.conversion.focus import fold_space_to_depth
from edge.core.contracts import Finding, shape_findings
from edge.core.errors import ModelError
from edge.core.lazy import require
from edge.core.profile import DeviceProfile
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.core.tensor import Feeds

Step = Callable[["ModelProto"], "ModelProto"]

log = logging.getLogger(__name__)

AGAIN = "export or download it again"

TOO_LARGE = "the model is larger than the 2 GB that one ONNX file can hold, or damaged"

LARGEST_SHARE = 0.5
"""Of this machine's memory, which a model may be estimated to need and is still run."""

PER_CHANNEL_OPSET = 13
"""The first opset whose DequantizeLinear has an axis, so that weights can have a scale each."""


class PreparedSource(msgspec.Struct, frozen=True):
    """A cleaned FP32 ONNX file at ``path``, with the SHA-256 ``digest``.

    ``sha256`` and ``size_bytes`` are those of ``source`` with its external data.
    """

    source: Path
    path: Path
    digest: str
    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ir: int
    ops: dict[str, int]
    findings: tuple[Finding, ...]


def prepare(
    source: Path,
    profile: DeviceProfile,
    into: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int | None = None,
    probe: Feeds | None = None,
) -> PreparedSource:
    """Read, check and clean ``source``; write it to ``into``/model.onnx.

    Args:
        shapes: Fixed shape per input name.
        batch: Size to fix the first axis of all inputs to.
        probe: One real sample, to compare outputs before and after on; noise when not given.
    Raises:
        ModelError: It is not a valid ONNX model, or the profile's runtime can't take it.
        InputError: ``shapes`` do not fit the model.
    """
    model = read_model(source)
    check_model(model, profile)
    graph.drop_initializer_inputs(model)
    wanted = {**(graph.batch_shapes(model, batch) if batch else {}), **(shapes or {})}
    if wanted:
        graph.fix_shapes(model, wanted)
    model, findings = clean(model, profile, probe)
    graph.pin_ir(model, profile.onnx.ir)
    graph.name_nodes(model)
    inputs, outputs = (graph.tensor_specs(v) for v in (model.graph.input, model.graph.output))
    path = into / "model.onnx"
    try:
        data = model.SerializeToString()
    except Exception as error:  # protobuf's ValueError or EncodeError, by version
        raise ModelError(f"{TOO_LARGE}: {_first_line(error)}") from error
    path.write_bytes(data)
    whole = identity(source)
    return PreparedSource(
        source=source,
        path=path,
        digest=hashlib.sha256(data).hexdigest(),
        sha256=whole.sha256,
        size_bytes=whole.size_bytes,
        inputs=inputs,
        outputs=outputs,
        opset=graph.opset_of(model),
        ir=model.ir_version,
        ops=graph.op_counts(model),
        findings=(*findings, *shape_findings(inputs, profile)),
    )


def read_model(source: Path) -> ModelProto:
    """Read an ONNX file and the external data it names.

    Raises:
        ModelError: It can't be read, is no ONNX model, or its external data is missing.
    """
    onnx = require("onnx", extra="convert")
    try:
        model: ModelProto = onnx.load_model_from_string(source.read_bytes())
    except OSError as error:
        raise ModelError(f"can not read {source}: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError, whose home differs between versions
        raise ModelError(
            f"{source} is not an ONNX model, or is cut short ({source.stat().st_size} bytes)",
            hint=AGAIN,
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{source} holds no ONNX graph ({source.stat().st_size} bytes)",
            hint="is it really an .onnx file?",
        )
    if not graph.is_text_intact(model):
        raise ModelError(f"{source} is damaged: a name in it is no text", hint=AGAIN)
    try:
        onnx.load_external_data_for_model(model, str(source.parent))
    except Exception as error:  # ValidationError, OSError, ValueError by cause and version
        raise ModelError(
            f"{source.name} keeps weights in a file that can not be read: {_first_line(error)}",
            hint="keep the .onnx file and its data file in one folder",
        ) from error
    return model


def check_model(model: ModelProto, profile: DeviceProfile) -> None:
    """Raise ``ModelError`` for an invalid graph, an unknown operator or a too new opset."""
    opset = graph.opset_of(model)
    if opset > profile.onnx.opset:
        raise ModelError(
            f"the model is in opset {opset}; {profile.name} takes up to {profile.onnx.opset}",
            hint=f"export it again with opset_version={profile.onnx.opset}",
        )
    unknown = graph.unknown_ops(model)
    if unknown:
        named = "; ".join(f"{op} (node {', '.join(nodes[:3])})" for op, nodes in unknown.items())
        raise ModelError(
            f"unknown operator in opset {opset}: {named}",
            hint="custom operators can not be converted; export with standard ones",
        )
    onnx = require("onnx", extra="convert")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"not a valid ONNX graph: {_first_line(error)}") from error
    except Exception as error:  # protobuf's ValueError or EncodeError, by version: above 2 GB
        raise ModelError(f"{TOO_LARGE}: {_first_line(error)}") from error
    if not model.graph.output:
        raise ModelError("the model has no outputs")
    broken = graph.broken_weights(model)
    if broken:
        named = "; ".join(f"node {node} has {what}" for node, what in list(broken.items())[:3])
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise ModelError(
            f"{len(broken)} of the model's nodes have broken weights: {named}{more}",
            hint="training diverged, or the export did: take another checkpoint",
        )


def clean(
    model: ModelProto, profile: DeviceProfile, probe: Feeds | None = None
) -> tuple[ModelProto, list[Finding]]:
    """Raise the opset where INT8 needs it, fold BatchNorm and constants; the answers stay equal.

    A step that fails or changes the outputs is left out, and a finding says so.
    """
    is_too_large = memory.memory_estimate(model).peak_bytes > LARGEST_SHARE * memory.here_bytes()
    trials = [] if is_too_large else list(_trials(model, probe))
    if not trials:
        _refuse_unless_loadable(model)
        what = (
            "the model is too large to run here" if is_too_large else "noise does not run through"
        )
        why = f"{what}, so a cleaned one could not be compared"
        return model, [Finding("info", f"the graph is used as it is: {why}")]
    findings: list[Finding] = []
    for what, step in _steps(model, profile):
        try:
            candidate = step(_copy(model))
        except Exception as error:  # a third party's pass over a graph it may not foresee
            findings.append(_left_out(what, _first_line(error)))
            continue
        graph.keep_signature(candidate, model)
        if all(_are_equal(expected, _answers(candidate, feeds)) for feeds, expected in trials):
            model = candidate
        else:
            findings.append(_left_out(what, "the outputs were not the same after it"))
    return model, findings


def _steps(model: ModelProto, profile: DeviceProfile) -> Iterator[tuple[str, Step]]:
    target = min(PER_CHANNEL_OPSET, profile.onnx.opset)
    if graph.opset_of(model) < target:
        yield f"raising to opset {target}", lambda m: graph.raise_opset(m, target)
    yield "simplification (onnxslim)", lambda m: require("onnxslim", extra="convert").slim(m)
    yield "folding slices into the convolution", fold_space_to_depth


def _left_out(what: str, why: str) -> Finding:
    return Finding("warning", f"{what} was left out: {why}")


def _copy(model: ModelProto) -> ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _trials(model: ModelProto, probe: Feeds | None) -> Iterator[tuple[Feeds, dict[str, Any]]]:
    """Inputs that the model accepts, in more than one size where it is dynamic, and its answers."""
    specs = graph.tensor_specs(model.graph.input)
    is_static = all(spec.is_static for spec in specs)
    guesses = [noise(specs, 1, 1)] if is_static else [noise(specs, 1, 16), noise(specs, 2, 1)]
    for feeds in (*([probe] if probe else []), *guesses):
        answers = _answers(model, feeds)
        if answers is not None:
            yield feeds, answers


def noise(specs: tuple[TensorSpec, ...], batch: int, size: int, *, seed: int = 0) -> dict[str, Any]:
    """Reproducible values for ``specs``; an axis that leads somewhere is ``batch`` if dynamic,
    other dynamic axes are ``size``."""
    import numpy as np

    generator = np.random.default_rng(seed)
    leading = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}

    def array(spec: TensorSpec) -> Any:
        shape = [d if isinstance(d, int) else batch if d in leading else size for d in spec.shape]
        if spec.dtype.startswith("float"):
            return generator.random(shape).astype(spec.dtype)
        return np.zeros(shape, dtype=object if spec.dtype == "string" else spec.dtype)

    return {spec.name: array(spec) for spec in specs}


def _answers(model: ModelProto, feeds: Feeds) -> dict[str, Any] | None:
    """What ONNX Runtime answers, or nothing when it can't load or run this."""
    try:
        session = _session(model)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # pybind's exceptions share no base but Exception
        log.debug("the model does not run on these inputs: %s", error)
        return None


def _refuse_unless_loadable(model: ModelProto) -> None:
    try:
        _session(model)
    except Exception as error:
        raise ModelError(f"ONNX Runtime can not load the model: {_first_line(error)}") from error


def _session(model: ModelProto) -> Any:
    onnxruntime = require("onnxruntime", extra="convert")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    candidate = _copy(model)
    # The runtime here may be older than the library that raised the IR version in memory.
    with contextlib.suppress(ModelError):
        graph.pin_ir(candidate, 10)
    return onnxruntime.InferenceSession(
        candidate.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _are_equal(expected: Mapping[str, Any], got: Mapping[str, Any] | None) -> bool:
    """The same outputs in the same order of names, but for float32 rounding."""
    import numpy as np

    if got is None or list(expected) != list(got):
        return False
    for name, want in expected.items():
        have = got[name]
        if want.shape != have.shape or want.dtype != have.dtype:
            return False
        if want.dtype.kind == "f":
            scale = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
            if not np.allclose(want, have, rtol=1e-3, atol=1e-4 * scale, equal_nan=True):
                return False
        elif not np.array_equal(want, have):
            return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

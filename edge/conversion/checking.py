"""What the engines of a device will say to a model, and what it costs there: before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.conversion import graph, tflite_source
from edge.conversion.estimates import Estimator, ModelCosts, PrecisionEstimate, available_bytes
from edge.conversion.findings import SourceNames, memory_findings, type_findings
from edge.conversion.source import (
    PER_CHANNEL_OPSET,
    PreparedSource,
    check_model,
    prepare,
    read_model,
)
from edge.core import plugins
from edge.core.contracts import Converter, Finding, shape_findings
from edge.core.errors import ModelError
from edge.core.lazy import require
from edge.core.profile import DeviceProfile, Onnx, Shapes
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

SCHEMA = 1


class EngineCheck(msgspec.Struct, frozen=True):
    """``asked`` is the engine's version here, empty where it is not here to be asked."""

    engine: str
    takes: bool
    asked: str
    precisions: tuple[str, ...]
    findings: tuple[Finding, ...]


class ProfileCheck(msgspec.Struct, frozen=True):
    """One device. ``opset`` and ``ir`` are those the engines are given, 0 where none is.

    ``memory_bytes`` is 0 where it is not known; it is without what the system keeps where that
    ``is_system_known``.
    """

    profile: str
    title: str
    opset: int
    ir: int
    accepted: Onnx
    engines: tuple[EngineCheck, ...]
    memory_bytes: int
    is_system_known: bool
    estimates: tuple[PrecisionEstimate, ...]

    @property
    def takes(self) -> bool:
        return any(engine.takes for engine in self.engines)


class CheckReport(msgspec.Struct, frozen=True):
    """What ``edge check --json`` prints; all of ``costs`` and ``estimates`` is estimated."""

    schema: int
    model: str
    sha256: str
    size_bytes: int
    opset: int
    ir: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    costs: ModelCosts
    profiles: tuple[ProfileCheck, ...]


def check(
    source: Path,
    profiles: Sequence[DeviceProfile],
    work: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int | None = None,
) -> CheckReport:
    """Ask every engine of every device that can be asked here, and estimate the rest.

    Args:
        work: An empty folder for cleaned models.
    Raises:
        ModelError: The file can not be read.
        InputError: ``shapes`` do not fit the model.
    """
    if source.suffix.lower() == tflite_source.SUFFIX:
        raise ModelError(
            f"{source.name} can not be checked: only ONNX graphs are estimated",
            hint="edge convert takes it as it is, for devices with OpenVINO",
        )
    model = read_model(source)
    opset, ir = graph.opset_of(model), model.ir_version
    graph.drop_initializer_inputs(model)
    inputs, outputs = (graph.tensor_specs(v) for v in (model.graph.input, model.graph.output))
    wanted = {**(graph.batch_shapes(model, batch) if batch else {}), **(shapes or {})}
    candidates: dict[tuple[int, int], _Candidate] = {}
    checks: list[ProfileCheck] = []
    for profile in profiles:
        given = min(PER_CHANNEL_OPSET, profile.onnx.opset), min(ir, profile.onnx.ir)
        candidate = candidates.get(given)
        if candidate is None or not _is_for(candidate, profile):
            folder = work / str(len(checks))
            folder.mkdir()
            candidate = _candidate(model, source, profile, folder, wanted)
            candidates[given] = candidate
        checks.append(_profile_check(candidate, profile, model))
    return CheckReport(
        schema=SCHEMA,
        model=source.name,
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        size_bytes=source.stat().st_size,
        opset=opset,
        ir=ir,
        inputs=inputs,
        outputs=outputs,
        costs=_costs(model, next(iter(candidates.values())).estimator),
        profiles=tuple(checks),
    )


def _costs(model: ModelProto, estimator: Estimator) -> ModelCosts:
    names = SourceNames(model, estimator.sizes.scope)
    costs = estimator.costs()
    nodes = (msgspec.structs.replace(node, name=names.find(node.name)) for node in costs.nodes)
    return msgspec.structs.replace(costs, nodes=tuple(nodes))


class _Candidate(msgspec.Struct, frozen=True):
    """The model as converters get it, or why they do not, and its costs all the same.

    ``path`` is the file that engines are asked about; nothing for what is not worth asking.
    """

    prepared: PreparedSource | None
    refusal: Finding | None
    path: Path | None
    estimator: Estimator


def _is_for(candidate: _Candidate, profile: DeviceProfile) -> bool:
    """Whether a candidate that was made for another device is what this one would get."""
    made = candidate.prepared  # a refusal names the device it came from
    return made is not None and made.opset <= profile.onnx.opset and made.ir <= profile.onnx.ir


def _candidate(
    model: ModelProto,
    source: Path,
    profile: DeviceProfile,
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
) -> _Candidate:
    onnx = require("onnx", extra="convert")
    # Devices that take the same ONNX share this, whatever they say to shapes.
    any_shape = msgspec.structs.replace(profile, shapes=Shapes())
    try:
        prepared = prepare(source, any_shape, folder, shapes=shapes)
    except ModelError as error:
        refusal = Finding("error", str(error), hint=error.hint)
        try:
            if shapes:
                graph.fix_shapes(model, shapes)
            estimator = Estimator(model)
        except Exception:  # a graph that is not sound; what it was refused for says why
            raise error from None
        return _Candidate(None, refusal, _as_it_is(model, profile, folder), estimator)
    estimator = Estimator(onnx.load_model(prepared.path))
    return _Candidate(prepared, None, prepared.path, estimator)


def _as_it_is(model: ModelProto, profile: DeviceProfile, folder: Path) -> Path | None:
    """Where ONNX Runtime refused a valid model, engines are asked all the same: they say more."""
    path = folder / "model.onnx"
    try:
        check_model(model, profile)
        path.write_bytes(model.SerializeToString())
    except Exception:  # refused for what no engine would say more about, or above protobuf's 2 GB
        return None
    return path


def _profile_check(
    candidate: _Candidate, profile: DeviceProfile, model: ModelProto
) -> ProfileCheck:
    prepared, refusal = candidate.prepared, candidate.refusal
    estimates = candidate.estimator.precisions(profile)
    names = SourceNames(model, candidate.estimator.sizes.scope)
    found = [refusal] if refusal else []
    if prepared:
        found += [*prepared.findings, *shape_findings(prepared.inputs, profile)]
        found += type_findings(candidate.estimator.sizes.scope, profile)
    found += memory_findings(estimates, profile)
    converters = {converter.engine: converter for converter in plugins.converters().values()}
    return ProfileCheck(
        profile=profile.name,
        title=profile.device.title,
        opset=prepared.opset if prepared else 0,
        ir=prepared.ir if prepared else 0,
        accepted=profile.onnx,
        engines=tuple(
            _named(_engine_check(engine, converters.get(engine), candidate, profile, found), names)
            for engine in profile.runtimes.order
        ),
        memory_bytes=available_bytes(profile),
        is_system_known=profile.memory.os_bytes > 0,
        estimates=estimates,
    )


def _engine_check(
    engine: str,
    converter: Converter | None,
    candidate: _Candidate,
    profile: DeviceProfile,
    found: list[Finding],
) -> EngineCheck:
    findings, asked = list(found), ""
    if converter is None:
        findings.append(Finding("error", "no converter writes for this engine yet"))
    elif candidate.path and not any(
        f.severity == "error" and f != candidate.refusal for f in found
    ):
        availability = converter.availability()
        if availability.ready:
            asked = availability.version
            answers = converter.check(candidate.path, profile)
            findings = [f for f in findings if not any(_repeats(a, f) for a in answers)]
            findings += answers
        else:
            findings.append(Finding("error", availability.reason, hint=availability.hint))
    precisions = converter.precisions if converter else ()
    return EngineCheck(
        engine=engine,
        takes=not _has_error(findings),
        asked=asked,
        precisions=tuple(name for name in precisions if name in profile.precision.legal),
        findings=tuple(findings),
    )


def _repeats(answer: Finding, found: Finding) -> bool:
    """Whether an engine says what was found before, and so also where."""
    reason = found.message.partition(": ")[2]
    both_refuse = answer.severity == found.severity == "error"
    return both_refuse and bool(reason) and reason in answer.message


def _named(check: EngineCheck, names: SourceNames) -> EngineCheck:
    found = tuple(names.of_source(finding) for finding in check.findings)
    return msgspec.structs.replace(check, findings=found)


def _has_error(findings: Iterable[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)

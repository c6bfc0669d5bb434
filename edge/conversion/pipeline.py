"""The flow of a conversion: check, prepare, convert and repair, time, decide, pack."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge import __version__
from edge.bundle import pack
from edge.conversion import outcome, tflite_source
from edge.conversion.cache import StageCache
from edge.conversion.data_checks import check_data, check_labels, check_source
from edge.conversion.external import identity
from edge.conversion.gate import Decision, bound_for, decide
from edge.conversion.latency import Timings
from edge.conversion.measurement import is_latency_valid
from edge.conversion.metrics import UserMetric
from edge.conversion.opening import REFERENCE_ENGINE
from edge.conversion.plan import AUTO, make_plan
from edge.conversion.repair import Attempt, Limits
from edge.conversion.report import Report
from edge.conversion.samples import Dataset
from edge.conversion.sampling import Sampling, open_sampling
from edge.conversion.search import Found, refuse, search
from edge.conversion.source import PreparedSource, prepare
from edge.conversion.sources import as_file
from edge.conversion.workbench import Job, Judged, Progress, Workbench
from edge.core.contracts import Finding
from edge.core.errors import InputError
from edge.core.machine import machine
from edge.core.manifest import SCHEMA, Golden, Manifest, Variant
from edge.core.profile import DeviceProfile
from edge.core.spec import ModelSpec
from edge.host.health.reference import FILE as REFERENCE
from edge.host.health.reference import SOURCE, encode, reference_of

LABELS = "labels.txt"


class Request(msgspec.Struct, frozen=True):
    """One conversion; ``spec.name`` and ``spec.version`` name the bundle."""

    source: str
    profile: DeviceProfile
    spec: ModelSpec
    output: Path
    precision: str = AUTO
    engines: tuple[str, ...] = ()
    calibration: Path | None = None
    evaluation: Path | None = None
    max_drop: float | None = None
    at_least: float | None = None
    metric: UserMetric | None = None
    limits: Limits = Limits()
    shapes: dict[str, tuple[int, ...]] = {}
    batch: int | None = None


class Conversion(msgspec.Struct, frozen=True):
    """The bundle at ``path`` (``os.fspath`` gives it too), and the report in it."""

    path: Path
    report: Report

    def __fspath__(self) -> str:
        return str(self.path)


class Outcome(msgspec.Struct, frozen=True):
    """All that a conversion found out before it is written down."""

    prepared: PreparedSource
    sampling: Sampling
    source: Judged
    found: Found
    timings: Timings
    decision: Decision
    findings: tuple[Finding, ...] = ()


def convert_model(request: Request, progress: Progress, cache: StageCache) -> Conversion:
    """Make, measure and pack the variants that ``request`` asks for.

    Raises:
        ModelError: The source can't be read, or the device can't take it.
        InputError: Data or options do not fit the model, or the output can't be written.
        UnsupportedError: Nothing can be made for this device here.
    """
    plan = make_plan(
        request.profile,
        request.precision,
        has_calibration=request.calibration is not None,
        engines=request.engines,
    )
    with _work_folder(request.output) as work:
        progress("Checking", 0, 1)
        prepared = _prepare(request, work, cache)
        refuse(prepared.findings)
        sampling = open_sampling(
            request.spec,
            prepared.inputs,
            request.calibration,
            request.evaluation,
            request.metric,
        )
        measured = sampling.measured if request.evaluation is not None else None
        findings = _check_samples(sampling.calibration, measured, prepared, cache)
        progress("Checking", 1, 1)
        parts = work / "bundle"
        job = Job(prepared, request.profile, request.spec, sampling)
        with Workbench(job, parts, cache) as bench:
            source = bench.judge(None, progress)
            metric = source.scores.metric if source.scores else None
            if measured is not None:
                findings = (*findings, *check_source(metric, measured, prepared.outputs))
            bound = bound_for(metric, request.max_drop, request.at_least)
            found = search(plan, bench, bound, request.limits, progress)
            progress("Measuring latency", 0, 1)
            timings = bench.time([attempt.variant for attempt in found.attempts])
            progress("Measuring latency", 1, 1)
            decision = decide(
                [_measured(attempt, timings) for attempt in found.attempts],
                {attempt.variant.id: attempt.loss for attempt in found.attempts},
                request.profile,
                bound,
                must_pass=request.precision == AUTO,
                is_latency_valid=is_latency_valid(request.profile),
            )
            goldens = bench.goldens(decision.kept)
            everything = Outcome(prepared, sampling, source, found, timings, decision, findings)
            report = outcome.report(request, everything, bench)
        _lay_out(parts, report, sampling.labels)
        manifest = _manifest(request, everything, goldens, _lay_reference(parts, everything))
        pack(manifest, parts, request.output)
    return Conversion(request.output, report)


def _check_samples(
    calibration: Dataset | None,
    evaluation: Dataset | None,
    prepared: PreparedSource,
    cache: StageCache,
) -> tuple[Finding, ...]:
    if evaluation is not None:
        check_labels(evaluation, prepared.outputs)
    key = {
        "inputs": prepared.inputs,
        "calibration": calibration.digest if calibration is not None else "",
        "evaluation": evaluation.digest if evaluation is not None else "",
    }
    return cache.value(
        "data", key, tuple[Finding, ...], lambda: check_data(calibration, evaluation)
    )


def _prepare(request: Request, work: Path, cache: StageCache) -> PreparedSource:
    folder = work / "source"
    folder.mkdir()
    source = as_file(request.source, request.profile, work, cache)
    key: dict[str, Any] = {
        "digest": identity(source).sha256 if source.is_file() else "",
        "shapes": request.shapes,
        "batch": request.batch,
        "engines": request.profile.runtimes.order,
        "onnx": request.profile.onnx,
        "static": request.profile.shapes,
    }

    def make(into: Path) -> PreparedSource:
        if source.suffix.lower() == tflite_source.SUFFIX:
            return tflite_source.prepare_tflite(
                source, request.profile, into, shapes=request.shapes, batch=request.batch
            )
        return prepare(source, request.profile, into, shapes=request.shapes, batch=request.batch)

    prepared = cache.files("prepare", key, PreparedSource, folder, make)
    return msgspec.structs.replace(prepared, source=source, path=folder / prepared.path.name)


def _measured(attempt: Attempt, timings: Timings) -> Variant:
    """The variant with what was measured of it, or with the reason why nothing was."""
    variant, judged = attempt.variant, attempt.judged
    notes = (*variant.notes, *filter(None, (attempt.what, judged.note)))
    if judged.scores is None:
        return msgspec.structs.replace(variant, notes=notes)
    return msgspec.structs.replace(
        variant,
        metric=judged.scores.metric,
        agreement=judged.scores.agreement,
        latency_ms=timings.latency.get(variant.id),
        measured_on=machine(REFERENCE_ENGINE if judged.is_emulated else variant.engine),
        notes=notes,
    )


@contextmanager
def _work_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output``, so that a full disk shows early; gone on every way out."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".edge-convert-", dir=output.parent) as work:
            (Path(work) / "bundle").mkdir()
            yield Path(work)
    except OSError as error:
        raise InputError(
            f"can not write {error.filename or output}: {error.strerror}",
            hint="choose another place with -o, or make room there",
        ) from error


def _lay_out(parts: Path, report: Report, labels: tuple[str, ...]) -> None:
    """Leave in ``parts`` what the bundle is to hold."""
    kept = {row.id for row in report.variants if row.in_bundle}
    for folder in (parts / "variants").iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder)
    outcome.write(report, parts)
    if labels:
        (parts / LABELS).write_text("".join(f"{label}\n" for label in labels))


def _lay_reference(parts: Path, found: Outcome) -> str:
    """Leave what the kept variants saw and answered; its name, or nothing if it is too little."""
    judged = {attempt.variant.id: attempt.judged for attempt in found.found.attempts}
    forms = {SOURCE: found.source} | {each.id: judged[each.id] for each in found.decision.kept}
    known = {name: form.scores.distributions for name, form in forms.items() if form.scores}
    reference = reference_of(found.sampling.title, len(found.sampling.measured), known)
    if reference is None:
        return ""
    (parts / REFERENCE).write_bytes(encode(reference))
    return REFERENCE


def _manifest(
    request: Request, found: Outcome, goldens: tuple[Golden, ...], reference: str
) -> Manifest:
    spec = request.spec
    return Manifest(
        schema=SCHEMA,
        name=spec.name,
        version=spec.version,
        task=spec.task,
        profile=request.profile.name,
        source_sha256=found.prepared.sha256,
        variants=found.decision.kept,
        goldens=goldens,
        image=spec.image,
        output=spec.output,
        labels=LABELS if found.sampling.labels else "",
        reference=reference,
        created_with=f"edge {__version__}",
    )

"""The flow of a conversion: check, prepare, convert, open, measure, decide, pack."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge import __version__
from edge.bundle import pack
from edge.conversion import report
from edge.conversion.build import Built, Progress, build, refuse
from edge.conversion.gate import Decision, decide
from edge.conversion.goldens import make_goldens
from edge.conversion.measurement import (
    Measurements,
    is_latency_valid,
    measure,
    with_measurements,
)
from edge.conversion.opening import machine, open_all
from edge.conversion.plan import AUTO, make_plan
from edge.conversion.sampling import Sampling, open_sampling
from edge.conversion.source import PreparedSource, prepare
from edge.core.errors import InputError
from edge.core.manifest import SCHEMA, Golden, Manifest
from edge.core.profile import DeviceProfile
from edge.core.spec import ModelSpec, OutputSpec

LABELS = "labels.txt"
REPORT = "report/report.json"


class Request(msgspec.Struct, frozen=True):
    """One conversion; ``spec.name`` and ``spec.version`` name the bundle."""

    source: Path
    profile: DeviceProfile
    spec: ModelSpec
    output: Path
    precision: str = AUTO
    engines: tuple[str, ...] = ()
    calibration: Path | None = None
    evaluation: Path | None = None
    max_drop: float | None = None
    shapes: dict[str, tuple[int, ...]] = {}
    batch: int | None = None


class Conversion(msgspec.Struct, frozen=True):
    """The bundle at ``path`` (``os.fspath`` gives it too), and the report in it."""

    path: Path
    report: report.Report

    def __fspath__(self) -> str:
        return str(self.path)


class _Findings(msgspec.Struct, frozen=True):
    """All that a conversion found out before it is written down."""

    prepared: PreparedSource
    sampling: Sampling
    built: Built
    measured: Measurements
    decision: Decision


def convert_model(request: Request, progress: Progress) -> Conversion:
    """Make, measure and pack the variants that ``request`` asks for.

    Raises:
        ModelError: The source can't be read, or the device can't take it.
        InputError: Data or options do not fit the model, or the output can't be written.
        UnsupportedError: Nothing can be made for this device here.
    """
    has_calibration = request.calibration is not None
    plan = make_plan(
        request.profile, request.precision, has_calibration=has_calibration, engines=request.engines
    )
    with _work_folder(request.output) as work:
        progress("Checking", 0, 1)
        prepared = prepare(
            request.source, request.profile, work, shapes=request.shapes, batch=request.batch
        )
        refuse(prepared.findings)
        sampling = open_sampling(
            request.spec, prepared.inputs, request.calibration, request.evaluation
        )
        progress("Checking", 1, 1)
        parts = work / "bundle"
        built = build(plan, prepared.path, sampling.calibration, parts, progress)
        with open_all(prepared, built.variants, request.profile, parts) as opened:
            measured = measure(opened, sampling, request.spec.output or OutputSpec(), progress)
            decision = _decide(request, built, measured, opened.notes)
            goldens = make_goldens(sampling.measured, opened, decision.kept, parts)
        found = _Findings(prepared, sampling, built, measured, decision)
        outcome = _report(request, found)
        _lay_out(parts, outcome, sampling.labels)
        pack(_manifest(request, found, goldens), parts, request.output)
    return Conversion(request.output, outcome)


def _decide(
    request: Request, built: Built, measured: Measurements, notes: Mapping[str, str]
) -> Decision:
    variants = [
        with_measurements(variant, measured, machine(variant.engine), notes)
        for variant in built.variants
    ]
    return decide(
        variants,
        request.profile,
        source_metric=measured.source.metric,
        max_drop=request.max_drop,
        must_pass=request.precision == AUTO,
        is_latency_valid=is_latency_valid(request.profile),
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


def _report(request: Request, found: _Findings) -> report.Report:
    measured, decision = found.measured, found.decision
    source = report.SourceRow(
        measured.source.metric, measured.source_latency, found.prepared.size_bytes
    )
    identity = report.ModelIdentity(request.spec.name, request.spec.version, found.prepared.sha256)
    return report.Report(
        schema=report.SCHEMA,
        model=identity,
        profile=request.profile.name,
        source=source,
        variants=tuple(
            report.variant_row(variant, source, in_bundle=variant in decision.kept)
            for variant in decision.ranked
        ),
        gate=decision.gate,
        tried=(*found.built.refused, *decision.surpassed),
        data=found.sampling.title,
        findings=(*found.prepared.findings, *found.built.findings),
    )


def _lay_out(parts: Path, outcome: report.Report, labels: tuple[str, ...]) -> None:
    """Leave in ``parts`` what the bundle is to hold."""
    kept = {row.id for row in outcome.variants if row.in_bundle}
    for folder in (parts / "variants").iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder)
    (parts / REPORT).parent.mkdir()
    (parts / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(outcome), indent=1))
    if labels:
        (parts / LABELS).write_text("".join(f"{label}\n" for label in labels))


def _manifest(request: Request, found: _Findings, goldens: tuple[Golden, ...]) -> Manifest:
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
        created_with=f"edge {__version__}",
    )

"""Writes down what a conversion found: the report, as JSON and as a page."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge import __version__
from edge.conversion.cache import tools
from edge.conversion.memory import memory_estimate
from edge.conversion.page import render
from edge.conversion.report import (
    SCHEMA,
    LayerError,
    MemoryEstimate,
    ModelIdentity,
    Provenance,
    Report,
    SourceRow,
    VariantRow,
)
from edge.conversion.workbench import SOURCE, Workbench
from edge.core.lazy import require
from edge.core.machine import machine
from edge.core.manifest import Variant

if TYPE_CHECKING:
    from edge.conversion.pipeline import Outcome, Request
    from edge.conversion.workbench import Judged

FOLDER = "report"
JSON = "report.json"
PAGE = "report.html"
QUANTIZED = ("int8", "int4")


def report(request: Request, found: Outcome, bench: Workbench) -> Report:
    """Everything that was found, for people and programs."""
    decision = found.decision
    scores = found.source.scores
    source = SourceRow(
        scores.metric if scores else None,
        found.timings.latency[SOURCE],
        found.prepared.size_bytes,
    )
    judged = {attempt.variant.id: attempt.judged for attempt in found.found.attempts}
    rows = tuple(_row(variant, source, found, judged) for variant in decision.ranked)
    chosen = next(row.id for row in rows if row.chosen)
    chosen_scores = judged[chosen].scores
    is_onnx = found.prepared.path.suffix == ".onnx"
    return Report(
        schema=SCHEMA,
        model=ModelIdentity(request.spec.name, request.spec.version, found.prepared.sha256),
        profile=request.profile.name,
        source=source,
        variants=rows,
        gate=decision.gate,
        tried=found.found.refused,
        data=found.sampling.title,
        findings=(*found.prepared.findings, *found.findings, *found.found.findings),
        trials=found.found.trials,
        layers=_layers(decision.ranked, bench) if is_onnx else {},
        disagreements=chosen_scores.disagreements if chosen_scores else (),
        memory=_memory(found.prepared.path) if is_onnx else None,
        provenance=_provenance(request, found),
    )


def write(report: Report, parts: Path) -> None:
    """Lay the report into a bundle's parts."""
    folder = parts / FOLDER
    folder.mkdir()
    (folder / JSON).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    (folder / PAGE).write_text(render(report), encoding="utf-8")


def _row(
    variant: Variant, source: SourceRow, found: Outcome, judged: dict[str, Judged]
) -> VariantRow:
    latency = variant.latency_ms
    return VariantRow(
        id=variant.id,
        engine=variant.engine,
        precision=variant.precision,
        size_bytes=variant.size_bytes,
        metric=variant.metric,
        agreement=variant.agreement,
        latency_ms=latency,
        speedup=round(source.latency_ms.p50 / latency.p50, 3) if latency else None,
        measured_on=variant.measured_on,
        chosen=variant.chosen,
        in_bundle=variant in found.decision.kept,
        notes=variant.notes,
        is_on_front=variant.id in found.decision.front,
        placement=judged[variant.id].placement,
        joules=found.timings.joules.get(variant.id),
    )


def _memory(path: Path) -> MemoryEstimate:
    return memory_estimate(require("onnx", extra="convert").load_model(path))


def _layers(ranked: tuple[Variant, ...], bench: Workbench) -> dict[str, tuple[LayerError, ...]]:
    """Errors by layer of the chosen variant and of the best quantized one of each engine."""
    told = {variant.id: variant for variant in ranked if variant.chosen and variant.latency_ms}
    for variant in ranked:
        engines = {each.engine for each in told.values() if each.precision in QUANTIZED}
        if variant.precision in QUANTIZED and variant.latency_ms and variant.engine not in engines:
            told[variant.id] = variant
    return {name: bench.layers(variant) for name, variant in told.items()}


def _provenance(request: Request, found: Outcome) -> Provenance:
    sampling = found.sampling
    data = {"measured": sampling.measured.digest}
    if sampling.calibration is not None:
        data = {"calibration": sampling.calibration.digest, **data}
    options = {
        "precision": request.precision,
        "engines": ", ".join(request.engines) or "all of the profile",
        "max_drop": f"{found.decision.gate.max_drop:g} of {found.decision.gate.measure}",
        "at_least": "" if request.at_least is None else f"{request.at_least:g}",
        "shapes": ", ".join(f"{k}={'x'.join(map(str, v))}" for k, v in request.shapes.items()),
        "batch": str(request.batch or ""),
        "trials": str(request.limits.trials),
        "minutes": f"{request.limits.minutes:g}",
    }
    return Provenance(
        created_with=f"edge {__version__}",
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        machine=machine(),
        tools={name: version for name, version in tools().items() if name != "edge"},
        source=Path(request.source).name,
        data=data,
        options={name: value for name, value in options.items() if value},
    )

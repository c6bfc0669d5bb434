"""The report: what was measured, chosen and refused, and why (``report/report.json``)."""

from __future__ import annotations

import msgspec

from edge.core.contracts import Finding
from edge.core.manifest import Latency, Metric, Variant

SCHEMA = 1


class ModelIdentity(msgspec.Struct, frozen=True):
    name: str
    version: str
    sha256: str


class SourceRow(msgspec.Struct, frozen=True):
    """The source model as it is, run in FP32 by ONNX Runtime on this machine."""

    metric: Metric | None
    latency_ms: Latency
    size_bytes: int


class VariantRow(msgspec.Struct, frozen=True):
    """One variant; ``speedup`` is the source's p50 over its own, measured alternating."""

    id: str
    engine: str
    precision: str
    size_bytes: int
    metric: Metric | None
    agreement: float | None
    latency_ms: Latency | None
    speedup: float | None
    measured_on: str
    chosen: bool
    in_bundle: bool
    notes: tuple[str, ...] = ()


class Gate(msgspec.Struct, frozen=True):
    """``max_drop`` in points of ``measure``: a metric's name, or ``agreement``."""

    max_drop: float
    measure: str
    met: bool
    why: str


class Refusal(msgspec.Struct, frozen=True):
    """A variant that was asked for or tried and is not in the table, and why."""

    id: str
    why: str


class Report(msgspec.Struct, frozen=True):
    """What ``edge convert --json`` prints. ``data`` says on which samples figures were taken."""

    schema: int
    model: ModelIdentity
    profile: str
    source: SourceRow
    variants: tuple[VariantRow, ...]
    gate: Gate
    tried: tuple[Refusal, ...]
    data: str
    findings: tuple[Finding, ...] = ()


def variant_row(variant: Variant, source: SourceRow, *, in_bundle: bool) -> VariantRow:
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
        in_bundle=in_bundle,
        notes=variant.notes,
    )

"""The report: what was measured, chosen and refused, and why (``report/report.json``)."""

from __future__ import annotations

import msgspec

from edge.core.contracts import Finding
from edge.core.manifest import Latency, Metric

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
    """One variant; ``speedup`` is the source's p50 over its own, measured alternating.

    ``is_on_front``: no other variant is at once as accurate, as fast and as small. ``placement``
    is the share of nodes by device or provider; ``joules`` the energy of one inference, where a
    sensor exists.
    """

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
    is_on_front: bool = False
    placement: dict[str, float] = {}
    joules: float | None = None


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


class Trial(msgspec.Struct, frozen=True):
    """One attempt of the repair ladder, in the order in which they were made.

    ``what`` says what was changed, such as ``3 nodes in float``; ``loss`` is in points of the
    gate's measure, ``sqnr_db`` how near the outputs are to the source's.
    """

    id: str
    what: str
    loss: float | None
    sqnr_db: float | None
    passed: bool
    seconds: float


class LayerError(msgspec.Struct, frozen=True):
    """How far one tensor of a variant is from the source's, over some samples.

    ``sqnr_db`` is the signal to noise ratio in dB, ``cosine`` the similarity, 1 for equal ones.
    """

    name: str
    op: str
    sqnr_db: float
    cosine: float


class Disagreement(msgspec.Struct, frozen=True):
    """A sample to which the chosen variant answers otherwise than the source.

    ``thumbnail`` is a JPEG as a ``data:`` URI, empty for samples that are no pictures.
    """

    sample: str
    expected: str
    got: str
    thumbnail: str = ""


class MemoryStep(msgspec.Struct, frozen=True):
    """Bytes of activations alive while ``node`` runs."""

    node: str
    op: str
    live_bytes: int


class MemoryEstimate(msgspec.Struct, frozen=True):
    """An estimate for FP32 and one sample, by liveness over the graph in its order.

    ``peak_bytes`` is the weights and the most ``live_bytes`` together.
    """

    weight_bytes: int
    peak_bytes: int
    steps: tuple[MemoryStep, ...]


class Provenance(msgspec.Struct, frozen=True):
    """Where a bundle came from. ``data`` maps the role of samples to the SHA-256 of them all."""

    created_with: str
    created_at: str
    machine: str
    tools: dict[str, str]
    source: str
    data: dict[str, str]
    options: dict[str, str]


class Report(msgspec.Struct, frozen=True):
    """What ``edge convert --json`` prints. ``data`` says on which samples figures were taken.

    ``layers`` has the errors by layer of some variants, by their ids, in execution order.
    """

    schema: int
    model: ModelIdentity
    profile: str
    source: SourceRow
    variants: tuple[VariantRow, ...]
    gate: Gate
    tried: tuple[Refusal, ...]
    data: str
    findings: tuple[Finding, ...] = ()
    trials: tuple[Trial, ...] = ()
    layers: dict[str, tuple[LayerError, ...]] = {}
    disagreements: tuple[Disagreement, ...] = ()
    memory: MemoryEstimate | None = None
    provenance: Provenance | None = None

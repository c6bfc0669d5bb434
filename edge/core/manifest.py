"""Manifest, Variant, Golden: what a bundle says of itself."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge.core.spec import ImageSpec, OutputSpec, Task
from edge.core.tensor import TensorSpec

SCHEMA = 1

# Constraints hold when a manifest is read. Names end up in paths, URLs, MQTT topics and metric
# labels, hence the few letters.
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?\Z")]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]{0,98}[A-Za-z0-9_+-])?"
EntryPath = Annotated[str, Meta(pattern=rf"\A{_SEGMENT}(?:/{_SEGMENT}){{0,7}}\Z")]
"""Relative, forward slashes, no segment that starts or ends with a dot."""

NotNegative = Annotated[float, Meta(ge=0)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the bundle; ``path`` is relative to its root, with forward slashes."""

    path: EntryPath
    sha256: Digest
    size_bytes: Annotated[int, Meta(ge=0)]


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A measured figure of merit; percent for ``top1`` and its like."""

    name: str
    value: float


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Percentiles of single inferences, one after the other, in milliseconds."""

    p50: NotNegative
    p99: NotNegative


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One form of the model for one engine.

    ``precision`` is what is executed, whether the engine takes it from the file or from
    ``options``. ``files`` are relative to the folder of the variant; the first one is what the
    engine opens. ``requires`` is what a device must have, by name (``tensorrt``, ``sm``, …).
    ``metric``, ``agreement`` (with the source, 0..1), ``latency_ms`` and ``measured_on`` stay
    empty until measured.
    """

    id: Name
    engine: Name
    precision: str
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: dict[str, Any] = {}
    built_with: dict[str, str] = {}
    requires: dict[str, str] = {}
    metric: Metric | None = None
    agreement: Annotated[float, Meta(ge=0, le=1)] | None = None
    latency_ms: Latency | None = None
    measured_on: str = ""
    chosen: bool = False
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs and what the source model answered to them.

    ``tolerances`` holds, by variant id and output name, the largest absolute difference from the
    expected output that counts as right on any machine.
    """

    inputs: EntryPath
    expected: EntryPath
    tolerances: dict[str, dict[str, NotNegative]]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First entry of a bundle. ``files`` lists the entries that belong to no variant.

    Files of a variant lie in ``variants/<id>/``; ``labels`` names the entry with one class a line,
    ``reference`` that with the distribution of what the model saw and answered at conversion.
    """

    schema: int
    name: Name
    version: Name
    task: Task
    profile: Name
    source_sha256: Digest
    variants: tuple[Variant, ...]
    goldens: tuple[Golden, ...] = ()
    files: tuple[FileEntry, ...] = ()
    image: ImageSpec | None = None
    output: OutputSpec | None = None
    labels: str = ""
    reference: str = ""
    created_with: str = ""

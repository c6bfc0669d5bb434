"""Manifest, Variant, Golden: what a bundle says of itself."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.core.spec import ImageSpec, OutputSpec, Task
from edge.core.tensor import TensorSpec

SCHEMA = 1


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the bundle; ``path`` is relative to its root, with forward slashes."""

    path: str
    sha256: str
    size_bytes: int


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A measured figure of merit; percent for ``top1`` and its like."""

    name: str
    value: float


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Percentiles of single inferences, one after the other, in milliseconds."""

    p50: float
    p99: float


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One form of the model for one engine.

    ``precision`` is what is executed, whether the engine takes it from the file or from
    ``options``. ``files`` are relative to the folder of the variant; the first one is what the
    engine opens. ``requires`` is what a device must have, by name (``tensorrt``, ``sm``, …).
    ``metric``, ``agreement`` (with the source, 0..1), ``latency_ms`` and ``measured_on`` stay
    empty until measured.
    """

    id: str
    engine: str
    precision: str
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: dict[str, Any] = {}
    built_with: dict[str, str] = {}
    requires: dict[str, str] = {}
    metric: Metric | None = None
    agreement: float | None = None
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

    inputs: str
    expected: str
    tolerances: dict[str, dict[str, float]]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First entry of a bundle. ``files`` lists the entries that belong to no variant.

    Files of a variant lie in ``variants/<id>/``; ``labels`` names the entry with one class a line.
    """

    schema: int
    name: str
    version: str
    task: Task
    profile: str
    source_sha256: str
    variants: tuple[Variant, ...]
    goldens: tuple[Golden, ...] = ()
    files: tuple[FileEntry, ...] = ()
    image: ImageSpec | None = None
    output: OutputSpec | None = None
    labels: str = ""
    created_with: str = ""

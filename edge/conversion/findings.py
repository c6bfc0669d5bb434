"""What can be said of a model against a device's profile, without any engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from edge.conversion import graph
from edge.conversion.estimates import PrecisionEstimate, available_bytes
from edge.core.contracts import Finding
from edge.core.profile import DeviceProfile

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.conversion.sizing import Scope

_PRECISIONS = {
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "FLOAT8": "fp8",
    "FLOAT4": "fp4",
    "INT4": "int4",
    "UINT4": "int4",
}
"""What the name of a type begins with -> the precision that a device needs for it."""


def type_findings(scope: Scope, profile: DeviceProfile) -> list[Finding]:
    """A warning for each type in the file that the device does not list."""
    users: dict[str, list[str]] = {}
    for part in scope.walk():
        for node in part.nodes:
            values = (part.values.get(name) for name in (*node.input, *node.output))
            for dtype in {value.dtype for value in values if value}:
                users.setdefault(dtype, []).append(graph.label(node))
    findings = []
    for dtype, nodes in sorted(users.items()):
        needed = next((p for start, p in _PRECISIONS.items() if dtype.startswith(start)), "")
        if needed and needed not in profile.precision.legal:
            listed = ", ".join(profile.precision.legal)
            message = f"{dtype.lower()} in the file; {profile.name} lists {listed}"
            findings.append(Finding("warning", message, nodes=tuple(nodes)))
        elif dtype == "DOUBLE" and set(profile.compute.engines) != {"cpu"}:
            message = "float64 in the file, which no accelerator computes in"
            hint = "export the model in float32"
            findings.append(Finding("warning", message, hint=hint, nodes=tuple(nodes)))
    return findings


def memory_findings(
    estimates: Sequence[PrecisionEstimate], profile: DeviceProfile
) -> list[Finding]:
    large = [estimate for estimate in estimates if estimate.fits is False]
    if not large:
        return []
    needed = ", ".join(f"{e.peak_bytes / 1e9:.2f} GB in {e.precision}" for e in large)
    room = available_bytes(profile) / 1e9
    message = f"one inference needs an estimated {needed}; {profile.name} has {room:.2f} GB"
    return [Finding("warning", message, hint="smaller inputs need less: --shape")]


class SourceNames:
    """Finds the nodes of the source behind those of a cleaned or imported graph."""

    def __init__(self, source: ModelProto, cleaned: Scope) -> None:
        nodes = list(graph.all_nodes(source.graph))
        made_by = {name: graph.label(node) for node in nodes for name in node.output}
        own = {graph.label(node): graph.label(node) for node in nodes}
        renamed = {
            graph.label(node): made_by[name]
            for part in cleaned.walk()
            for node in part.nodes
            for name in node.output
            if name in made_by
        }
        self._names = {**renamed, **made_by, **own}

    def find(self, name: str) -> str:
        """The source's own name for a node, or the given one where it has none."""
        return self._names.get(name, name)

    def of_source(self, finding: Finding) -> Finding:
        """The finding with the source's own names, as far as its nodes are found there."""
        names = dict.fromkeys(self.find(name) for name in finding.nodes)
        return msgspec.structs.replace(finding, nodes=tuple(names))

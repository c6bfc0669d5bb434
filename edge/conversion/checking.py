"""What each engine of a device will say to a model, before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge.conversion.source import prepare
from edge.core import plugins
from edge.core.contracts import Finding
from edge.core.profile import DeviceProfile


def check(
    source: Path,
    profile: DeviceProfile,
    work: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int | None = None,
) -> dict[str, list[Finding]]:
    """Findings by engine, in the profile's order; an engine without a converter says so.

    Args:
        work: An empty folder for the cleaned model.
    Raises:
        ModelError: No engine of the device can take the file at all.
    """
    prepared = prepare(source, profile, work, shapes=shapes, batch=batch)
    findings = list(prepared.findings)
    if any(finding.severity == "error" for finding in findings):
        return dict.fromkeys(profile.runtimes.order, findings)
    converters = {converter.engine: converter for converter in plugins.converters().values()}
    return {
        engine: findings + converters[engine].check(prepared.path, profile)
        if engine in converters
        else [Finding("error", "no converter writes for this engine yet")]
        for engine in profile.runtimes.order
    }

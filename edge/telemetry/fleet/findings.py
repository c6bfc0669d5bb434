"""What is wrong with a device, in a few words each, by what it told last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from edge.telemetry.board import DeviceBoard
from edge.telemetry.lines import Metrics, number, printable

Severity = Literal["bad", "warning"]

_LABELS = {
    ("drift", "drifted"): "drift",
    ("latency", "slow"): "slow",
    ("accuracy", "low"): "accuracy low",
}


class Finding(msgspec.Struct, frozen=True):
    """``subject`` is the name of a model, or empty for the device itself."""

    kind: str
    text: str
    severity: Severity = "warning"
    subject: str = ""


def findings(device: DeviceBoard) -> Iterable[Finding]:
    """The worst first."""
    found = [*_of_models(device), *_of_device(device)]
    return sorted(found, key=lambda finding: finding.severity != "bad")


def _of_models(device: DeviceBoard) -> Iterator[Finding]:
    for name, state in sorted(device.served.items()):
        yield from _of_state(printable(name), state)
        for version, other in sorted(_others(state).items()):
            if other == "failed":
                yield Finding(
                    "rejected", printable(f"version {version} failed"), "warning", printable(name)
                )
    for (name, version), row in sorted(device.models.items()):
        subject = printable(name)
        if str(device.served.get(name, {}).get("version", version)) != version:
            continue  # figures of one that does not serve any more
        rate = number(row.sample.get("failure_per_s"))
        if rate:
            yield Finding("errors", f"{rate:.3g} errors/s", "bad", subject)
        for (kind, label), text in _LABELS.items():
            if row.health.get(kind) == label:
                yield Finding(kind, text, "warning", subject)


def _of_state(name: str, state: Metrics) -> Iterator[Finding]:
    if state.get("state") == "failed":
        yield Finding("failed", "failed", "bad", name)
    elif state.get("building"):
        yield Finding("building", "builds its engine", "warning", name)
    elif state.get("is_fallback") is True:
        placement = state.get("placement") or "fallback"
        yield Finding("fallback", printable(f"falls back to {placement}"), "warning", name)


def _others(state: Metrics) -> Metrics:
    others = state.get("other_versions")
    return others if isinstance(others, dict) else {}


def _of_device(device: DeviceBoard) -> Iterator[Finding]:
    sample = device.sample
    if sample.get("power_level") not in (None, "free"):
        cause = sample.get("power_cause", "unknown")
        yield Finding("held-back", printable(f"held back: {cause}"))
    if sample.get("outbox_failure"):
        yield Finding("outbox", printable(f"outbox: {sample['outbox_failure']}"), "bad")
    dropped = number(sample.get("outbox_dropped_count"))
    if dropped:
        yield Finding("outbox", f"outbox lost {dropped:,.0f}", "bad")
    if device.reported.get("state") == "failed":
        reason = device.reported.get("reason", "")
        yield Finding("desired", printable(f"not as desired: {reason}"), "bad")

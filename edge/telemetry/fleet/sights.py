"""What a roll-out needs to know of a device, from all that the device told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from edge.telemetry.board import DeviceBoard, ModelRow
from edge.telemetry.fleet.decisions import Sight
from edge.telemetry.fleet.findings import findings
from edge.telemetry.fleet.picture import state_of, whole
from edge.telemetry.fleet.rollout import Counts, Target
from edge.telemetry.lines import printable

AILMENTS = ("fallback", "drift", "latency", "accuracy")
"""Kinds of findings that tell of the model; its errors are counted apart."""


def sight_of(
    device: DeviceBoard,
    target: Target,
    answers: Mapping[str, Mapping[str, Any]],
    now_s: float,
    ailments: Collection[str] = AILMENTS,
) -> Sight:
    """``ailments``: the kinds that are looked for."""
    served = device.served.get(target.name, {})
    row = device.models.get((target.name, target.version), ModelRow())
    return Sight(
        is_online=state_of(device, now_s) == "online",
        answers=answers,
        version=printable(str(served.get("version", ""))),
        digest=str(served.get("digest", "")),
        why=_why(device, target),
        is_building=bool(served.get("building")),
        is_failed=served.get("state") == "failed",
        counts=Counts(
            whole(row.sample.get("success_count")), whole(row.sample.get("failure_count"))
        ),
        ailments=tuple(_ailments(device, target.name, ailments)),
    )


def _ailments(device: DeviceBoard, model: str, kinds: Collection[str]) -> Iterable[str]:
    return (
        finding.text
        for finding in findings(device)
        if finding.subject == model and finding.kind in kinds
    )


def _why(device: DeviceBoard, target: Target) -> str:
    """Why the version is not served any more, as far as the device told."""
    event = device.events.get(("model_state", target.name, target.version), {})
    served = device.served.get(target.name, {})
    why = event.get("why") if event.get("to") == "failed" else None
    if not why and served.get("state") == "failed":
        why = served.get("why")
    return printable(str(why or ""))

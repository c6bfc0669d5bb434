"""A fleet as a list of devices: what each serves, what is wrong with it, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import msgspec

from edge.telemetry.board import Board, DeviceBoard, ModelRow, key_of
from edge.telemetry.fleet.findings import Finding, findings
from edge.telemetry.lines import Metrics, number, printable, table, tables

_PER_MILLION = "cost_per_million_"
_AT_FULL_LOAD = "full_load_"

State = Literal["online", "silent", "offline", "unknown"]


class Money(msgspec.Struct, frozen=True):
    amount: float
    currency: str


class ServedModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model of a device, by the version that serves; figures are of the last interval."""

    name: str
    version: str = ""
    digest: str = ""
    state: str = ""
    engine: str = ""
    precision: str = ""
    placement: str = ""
    is_fallback: bool = False
    success_per_s: float | None = None
    p99_ms: float | None = None
    success_count: int = 0
    failure_count: int = 0
    per_million: Money | None = None
    joules_per_inference: float | None = None


class DeviceSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """``silent_s`` is how long nothing came from it though it did not take its leave."""

    fleet: str
    device: str
    state: State
    reason: str = ""
    silent_s: float = 0.0
    edge_version: str = ""
    arch: str = ""
    models: list[ServedModel] = []
    findings: list[Finding] = []
    power_total_watts: float | None = None
    temperature_max_celsius: float | None = None
    cpu_percent: float | None = None


class VersionCount(msgspec.Struct, frozen=True):
    """On how many devices a version serves; ``digest`` tells apart what bears the same version."""

    name: str
    version: str
    digest: str
    devices: int
    has_twin: bool


def summarize(board: Board, now_s: float) -> list[DeviceSummary]:
    """All devices, sorted by fleet and name.

    Args:
        now_s: Monotonic clock, as that of the arrivals.
    """
    return [
        _summary(fleet, name, device, now_s)
        for (fleet, name), device in sorted(board.devices.items())
    ]


def count_versions(devices: list[DeviceSummary]) -> list[VersionCount]:
    """What serves where, sorted by model, the most frequent version first."""
    counts = Counter(
        (model.name, model.version, model.digest) for device in devices for model in device.models
    )
    twins = Counter((name, version) for name, version, _ in counts)
    ordered = sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0]))
    return [VersionCount(*key, count, twins[key[:2]] > 1) for key, count in ordered]


def state_of(device: DeviceBoard, now_s: float) -> State:
    if device.status.get("state") == "offline":
        return "offline"
    if device.silent_s(now_s):
        return "silent"
    return "online" if device.is_online or device.heard_s else "unknown"


def _summary(fleet: str, name: str, device: DeviceBoard, now_s: float) -> DeviceSummary:
    state = state_of(device, now_s)
    sample = device.sample
    return DeviceSummary(
        fleet=printable(fleet),
        device=printable(name),
        state=state,
        reason=_text(device.status, "reason"),
        silent_s=round(device.silent_s(now_s), 1) if state == "silent" else 0.0,
        edge_version=_text(device.info, "edge_version"),
        arch=_text(device.info, "arch"),
        models=list(_models(device)),
        findings=list(findings(device)) if state == "online" else [],
        power_total_watts=number(sample.get("power_total_watts")),
        temperature_max_celsius=number(sample.get("temperature_max_celsius")),
        cpu_percent=number(sample.get("cpu_percent")),
    )


def _models(device: DeviceBoard) -> Iterator[ServedModel]:
    costs = {key_of(row): row for row in tables(device.cost.get("models"))}
    for name, state in sorted(device.served.items()):
        row = device.models.get(key_of(state), ModelRow())
        yield _model(name, state, row.sample, costs.get(key_of(state), {}))


def _model(name: str, state: Metrics, sample: Metrics, cost: Metrics) -> ServedModel:
    latency = table(table(sample.get("latency_ms")).get("infer"))
    return ServedModel(
        name=printable(name),
        version=_text(state, "version"),
        digest=_text(state, "digest"),
        state=_text(state, "state"),
        engine=_text(state, "engine"),
        precision=_text(state, "precision"),
        placement=_text(state, "placement"),
        is_fallback=state.get("is_fallback") is True,
        success_per_s=number(sample.get("success_per_s")),
        p99_ms=number(latency.get("p99")),
        success_count=whole(sample.get("success_count")),
        failure_count=whole(sample.get("failure_count")),
        per_million=_per_million(cost),
        joules_per_inference=number(cost.get("joules_per_inference")),
    )


def _per_million(cost: Metrics) -> Money | None:
    for name, value in cost.items():
        rest = name.removeprefix(_PER_MILLION)
        amount = number(value)
        if rest != name and not rest.startswith(_AT_FULL_LOAD) and amount is not None:
            return Money(amount, printable(rest.upper()))
    return None


def _text(metrics: Metrics, name: str) -> str:
    value = metrics.get(name)
    return printable(value) if isinstance(value, str) else ""


def whole(value: object) -> int:
    """A count that came from outside; 0 for what is none."""
    return int(value) if isinstance(value, int) and value > 0 else 0

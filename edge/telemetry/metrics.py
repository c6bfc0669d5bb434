"""Turns what a runtime says of its models into plain metrics, ready for any payload format."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

import edge
from edge.core import plugins
from edge.core.errors import EdgeError
from edge.core.profile import load_profile

if TYPE_CHECKING:
    from edge.host import ModelStatus, Snapshot

Metrics = dict[str, Any]
PERCENTILES = (50, 90, 99)
PROFILE = "host"


class Transition(msgspec.Struct, frozen=True):
    """A model that changed its state between two looks at it, or what serves it, or why."""

    status: ModelStatus
    before: str

    def metrics(self) -> Metrics:
        return {
            "name": self.status.name,
            "version": self.status.version,
            "from": self.before,
            "to": self.status.state,
            "why": _why(self.status),
        }


class Transitions:
    """Remembers the states of models from one look to the next."""

    def __init__(self) -> None:
        self._earlier: dict[tuple[str, str], ModelStatus] = {}

    def look(self, statuses: Sequence[ModelStatus]) -> list[Transition]:
        """What changed since the last look; a model that is new came from ``absent``."""
        changes = []
        for status in statuses:
            before = self._earlier.get((status.name, status.version))
            if before is None or _served(before) != _served(status):
                changes.append(Transition(status, before.state if before else "absent"))
        self._earlier = {(status.name, status.version): status for status in statuses}
        return changes


def _served(status: ModelStatus) -> tuple[str, ...]:
    return status.state, status.variant, status.engine, status.choice, str(status.is_active)


class ModelMeter:
    """What models did since the last measurement: rates, and percentiles per stage."""

    def __init__(self) -> None:
        self._earlier: dict[tuple[str, str], Snapshot] = {}
        self._measured_ns: int | None = None

    def measure(self, statuses: Sequence[ModelStatus], now_ns: int) -> Metrics:
        """Metrics of the models that are loaded.

        Args:
            now_ns: Monotonic clock at the time of ``statuses``.
        """
        window_s = 0.0 if self._measured_ns is None else (now_ns - self._measured_ns) / 1e9
        rows = [
            self._row(status, status.statistics, window_s)
            for status in statuses
            if status.statistics is not None
        ]
        self._earlier = {
            (status.name, status.version): status.statistics
            for status in statuses
            if status.statistics is not None
        }
        self._measured_ns = now_ns
        return {"window_s": round(window_s, 3), "models": rows}

    def _row(self, status: ModelStatus, snapshot: Snapshot, window_s: float) -> Metrics:
        earlier = self._earlier.get((status.name, status.version))
        row: Metrics = {
            "name": status.name,
            "version": status.version,
            "success_count": snapshot.success_count,
            "failure_count": snapshot.failure_count,
            "latency_ms": _latencies(snapshot, earlier),
            "engine": status.engine,
            "precision": status.precision,
            "placement": status.placement.actual if status.placement else "",
            "is_fallback": status.is_fallback,
            "loads": status.loads,
            "evictions": status.evictions,
        }
        if status.memory is not None:
            row["memory_bytes"] = status.memory.resident_bytes
        if window_s > 0:
            succeeded = snapshot.success_count - (earlier.success_count if earlier else 0)
            failed = snapshot.failure_count - (earlier.failure_count if earlier else 0)
            row["success_per_s"] = round(succeeded / window_s, 3)
            row["failure_per_s"] = round(failed / window_s, 3)
        return row


def model_metrics(statuses: Sequence[ModelStatus]) -> dict[str, Metrics]:
    """Name -> state of a model: of its active version, the others beside it in short."""
    by_name: dict[str, list[ModelStatus]] = {}
    for status in statuses:
        by_name.setdefault(status.name, []).append(status)
    return {name: _model(versions) for name, versions in by_name.items()}


def device_info(statuses: Sequence[ModelStatus]) -> Metrics:
    """What does not change from minute to minute: versions, machine, models, engines in use."""
    profile = load_profile(PROFILE)
    return {
        "edge_version": edge.__version__,
        "python_version": platform.python_version(),
        "host": platform.node(),
        "pid": os.getpid(),
        "system": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "profile": profile.name,
        "cpu": profile.compute.cpu,
        "cpu_cores": profile.compute.cores,
        "memory_bytes": profile.memory.bytes,
        "models": [{"name": status.name, "version": status.version} for status in statuses],
        "engines": _engines(statuses),
    }


def _engines(statuses: Sequence[ModelStatus]) -> Metrics:
    """Only those that serve a model: asking another would load it."""
    placements: dict[str, set[str]] = {}
    for status in statuses:
        if status.engine and status.placement:
            placements.setdefault(status.engine, set()).add(status.placement.actual)
    return {
        engine: {"version": _engine_version(engine), "placements": sorted(places)}
        for engine, places in sorted(placements.items())
    }


def _engine_version(engine: str) -> str:
    try:
        return plugins.backend(engine).availability().version
    except EdgeError:
        return ""


def _latencies(snapshot: Snapshot, earlier: Snapshot | None) -> Metrics:
    """Per stage that was used since ``earlier``: mean and percentiles in milliseconds."""
    latencies: Metrics = {}
    for stage, total in snapshot.stages.items():
        recent = total.since(earlier.stages[stage]) if earlier else total
        if recent.count:
            latencies[stage] = {
                "mean": _rounded(recent.total_ns / recent.count / 1e6),
                **{f"p{p}": _rounded(recent.percentile_ms(p)) for p in PERCENTILES},
            }
    return latencies


def _rounded(milliseconds: float) -> float:
    """Three significant digits: the histogram knows no more."""
    return float(f"{milliseconds:.3g}")


def _model(versions: Sequence[ModelStatus]) -> Metrics:
    active = [status for status in versions if status.is_active]
    serving = (active or versions)[-1]
    placement = serving.placement
    metrics: Metrics = {
        "name": serving.name,
        "version": serving.version,
        "digest": serving.digest,
        "state": serving.state,
        "variant": serving.variant,
        "engine": serving.engine,
        "precision": serving.precision,
        "placement": placement.actual if placement else "",
        "shares": placement.shares if placement else {},
        "is_fallback": serving.is_fallback,
        "why": _why(serving),
    }
    if serving.building:
        building = serving.building
        percent = round(building.share * 100)
        metrics["building"] = {
            "variant": building.variant,
            "phase": building.phase,
            "percent": percent,
        }
    others = {status.version: status.state for status in versions if status is not serving}
    if others:
        metrics["other_versions"] = others
    return metrics


def _why(status: ModelStatus) -> str:
    """Why it failed, or why this variant serves, and why not where it was asked to."""
    reasons = (status.reason, status.choice, status.placement.reason if status.placement else "")
    return "; ".join(dict.fromkeys(filter(None, reasons)))

"""State and statistics in the text format of Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from edge import __version__
from edge.core.process import resident_bytes

if TYPE_CHECKING:
    from edge.host import ModelStatus, Snapshot
    from edge.host.response_cache import CacheCounts
    from edge.server.http.message import Traffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_QUANTILES = {"0.5": 50.0, "0.9": 90.0, "0.99": 99.0}
_BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64)
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]


def render(models: list[ModelStatus], traffic: Traffic, more: Iterable[Iterator[str]] = ()) -> str:
    """All metrics; times are seconds, sizes bytes, quantiles those since the model was loaded."""
    families = (
        *_serving_families(models),
        *_request_families(models),
        *more,
        *_server_families(traffic),
    )
    return "".join(line for family in families for line in family)


def _serving_families(models: list[ModelStatus]) -> Iterator[Iterator[str]]:
    """What models are in, and by what."""
    yield family(
        "edge_model_state",
        "gauge",
        "1 for the state that the model is in.",
        [("", {**_name(model), "state": model.state}, 1) for model in models],
    )
    yield family(
        "edge_model_active",
        "gauge",
        "1 for the version that answers who names none.",
        [("", _name(model), int(model.is_active)) for model in models],
    )
    yield family(
        "edge_model_placement_info",
        "gauge",
        "What runs the model: asked for, got, and why that differs.",
        [("", _placement(model), 1) for model in models if model.placement is not None],
    )
    yield family(
        "edge_model_build_progress_ratio",
        "gauge",
        "Share that is done of an engine in the making, whatever serves meanwhile.",
        [
            ("", {**_name(model), "variant": model.building.variant}, model.building.share)
            for model in models
            if model.building is not None
        ],
    )
    workers = [(model, model.worker) for model in models if model.worker is not None]
    yield family(
        "edge_model_worker_restarts_total",
        "counter",
        "How often the model's own process ended and was started again.",
        [("", _name(model), worker.restarts) for model, worker in workers],
    )
    yield family(
        "edge_model_worker_resident_bytes",
        "gauge",
        "What the model's own process holds, its part of what it shares included.",
        [("", _name(model), worker.resident_bytes) for model, worker in workers],
    )


def _request_families(models: list[ModelStatus]) -> Iterator[Iterator[str]]:
    """What became of requests."""
    loaded = [(model, model.statistics) for model in models if model.statistics is not None]
    yield family(
        "edge_model_inferences_total",
        "counter",
        "Inferences that succeeded.",
        [("", _name(model), stats.success_count) for model, stats in loaded],
    )
    yield family(
        "edge_model_failures_total",
        "counter",
        "Inferences that failed.",
        [("", _name(model), stats.failure_count) for model, stats in loaded],
    )
    yield family(
        "edge_model_refused_total",
        "counter",
        "Requests that never ran: the queue was full, or it was too late when their turn came.",
        [
            ("", {**_name(model), "reason": reason}, count)
            for model, stats in loaded
            for reason, count in stats.refused.items()
        ],
    )
    yield family(
        "edge_model_batch_requests",
        "histogram",
        "Requests that ran as one.",
        [sample for model, stats in loaded for sample in _batches(_name(model), stats)],
    )
    yield from _cache_families([(model, stats.cache) for model, stats in loaded if stats.cache])
    yield family(
        "edge_model_stage_seconds",
        "summary",
        "Time per request in each stage.",
        [sample for model, stats in loaded for sample in stages(_name(model), stats)],
    )


def _cache_families(
    caches: list[tuple[ModelStatus, CacheCounts]],
) -> Iterator[Iterator[str]]:
    yield family(
        "edge_model_cache_requests_total",
        "counter",
        "Requests whose answer was known (hit), known of a frame like it (perceptual), or not.",
        [
            ("", {**_name(model), "result": result}, count)
            for model, cache in caches
            for result, count in _results(cache).items()
        ],
    )
    yield family(
        "edge_model_cache_bytes",
        "gauge",
        "Answers that are remembered.",
        [("", _name(model), cache.bytes) for model, cache in caches],
    )


def _results(cache: CacheCounts) -> dict[str, int]:
    return {"hit": cache.hits, "perceptual": cache.perceptual, "miss": cache.misses}


def stages(of: Labels, statistics: Snapshot) -> Iterator[Sample]:
    for stage, histogram in statistics.stages.items():
        labels = {**of, "stage": stage}
        if histogram.count:
            for quantile, percent in _QUANTILES.items():
                seconds = histogram.percentile_ms(percent) / 1e3
                yield "", {**labels, "quantile": quantile}, seconds
        yield "_sum", labels, histogram.total_ns / 1e9
        yield "_count", labels, histogram.count


def _batches(name: dict[str, str], statistics: Snapshot) -> Iterator[Sample]:
    batches = statistics.batches
    for bound in _BATCH_BOUNDS:
        count = sum(batch.count for size, batch in batches.items() if size <= bound)
        yield "_bucket", {**name, "le": str(bound)}, count
    yield "_bucket", {**name, "le": "+Inf"}, statistics.execution_count
    yield "_sum", name, sum(size * batch.count for size, batch in batches.items())
    yield "_count", name, statistics.execution_count


def _server_families(traffic: Traffic) -> Iterator[Iterator[str]]:
    yield family("edge_info", "gauge", "The server.", [("", {"version": __version__}, 1)])
    yield family(
        "edge_http_responses_total",
        "counter",
        "HTTP responses by status.",
        [("", {"code": f"{code:d}"}, count) for code, count in sorted(traffic.responses.items())],
    )
    yield family(
        "edge_http_connections", "gauge", "Open HTTP connections.", [("", {}, traffic.connections)]
    )
    usage = os.times()
    yield family(
        "edge_process_cpu_seconds_total",
        "counter",
        "CPU time of this process.",
        [("", {}, usage.user + usage.system)],
    )
    yield family(
        "edge_process_resident_memory_bytes",
        "gauge",
        "Resident memory of this process.",
        [("", {}, size) for size in [resident_bytes()] if size],
    )


def _name(model: ModelStatus) -> dict[str, str]:
    return {"model": model.name, "version": model.version}


def _placement(model: ModelStatus) -> dict[str, str]:
    placement = model.placement
    assert placement is not None
    return {
        **_name(model),
        "engine": model.engine,
        "variant": model.variant,
        "precision": model.precision,
        "requested": placement.requested,
        "actual": placement.actual,
        "is_fallback": str(model.is_fallback).lower(),
        "reason": placement.reason or model.choice,
    }


def known(value: float | None, **labels: str) -> list[Sample]:
    """A sample, if there is anything to tell."""
    return [] if value is None else [("", labels, value)]


def family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for suffix, labels, value in samples:
        pairs = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
        yield f"{name}{suffix}{{{pairs}}} {value}\n" if pairs else f"{name}{suffix} {value}\n"

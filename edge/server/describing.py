"""Tensors, statistics and readiness in the words of KServe v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from edge.server.http.message import Response
from edge.server.kserve import messages
from edge.server.kserve.datatypes import datatype_of

if TYPE_CHECKING:
    from edge.core.tensor import TensorSpec
    from edge.host.statistics import Snapshot

INDEX_STATES = {"ready": "READY", **dict.fromkeys(("loading", "building", "warming"), "LOADING")}
"""The repository index's word for a state; UNAVAILABLE for all others."""


def json_response(value: Any, *, status: int = 200) -> Response:
    return Response([msgspec.json.encode(value)], status)


def readiness(answer: dict[str, Any], is_ready: bool, otherwise: str) -> Response:
    return (
        json_response(answer)
        if is_ready
        else json_response({"error": otherwise, **answer}, status=400)
    )


def _dims(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else -1 for dim in spec.shape)


def tensor_metadata(spec: TensorSpec) -> messages.TensorMetadata:
    return messages.TensorMetadata(spec.name, datatype_of(spec.dtype), _dims(spec))


def tensor_config(spec: TensorSpec) -> messages.TensorConfig:
    datatype = datatype_of(spec.dtype)
    kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    return messages.TensorConfig(spec.name, kind, _dims(spec))


def _cache(snapshot: Snapshot) -> dict[str, messages.Duration]:
    counts = snapshot.cache
    if counts is None:
        return {}
    hits = messages.Duration(counts.hits + counts.perceptual)
    return {"cache_hit": hits, "cache_miss": messages.Duration(counts.misses)}


def model_statistics(name: str, version: str, snapshot: Snapshot) -> messages.ModelStatistics:
    """An inference is a request here, and the size of a batch the number of its requests."""
    stages = {
        stage: messages.Duration(histogram.count, histogram.total_ns)
        for stage, histogram in snapshot.stages.items()
    }
    return messages.ModelStatistics(
        name=name,
        version=version,
        last_inference=snapshot.last_ms,
        inference_count=snapshot.success_count,
        execution_count=snapshot.execution_count,
        inference_stats=messages.InferStatistics(
            success=messages.Duration(snapshot.success_count, snapshot.success_ns),
            fail=messages.Duration(snapshot.failure_count, snapshot.failure_ns),
            queue=stages["queue"],
            compute_input=stages["input"],
            compute_infer=stages["infer"],
            compute_output=stages["output"],
            **_cache(snapshot),
        ),
        batch_stats=tuple(
            messages.BatchStatistics(size, messages.Duration(batch.count, batch.total_ns))
            for size, batch in snapshot.batches.items()
        ),
    )

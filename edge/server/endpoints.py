"""What KServe v2 tells of a server and its models, apart from inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from edge import __version__
from edge.core.errors import InputError
from edge.server.http.message import Request, Response
from edge.server.inference import not_ready
from edge.server.kserve import messages
from edge.server.kserve.codec import MALFORMED
from edge.server.kserve.datatypes import datatype_of

if TYPE_CHECKING:
    from edge.core.tensor import TensorSpec
    from edge.host import ModelStatus, Runtime
    from edge.host.statistics import Snapshot
    from edge.server.inference import Inference

EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")
_INDEX_STATES = {"ready": "READY", **dict.fromkeys(("loading", "building", "warming"), "LOADING")}


class Endpoints:
    """Each method answers one route; names and versions come from its path."""

    def __init__(self, runtime: Runtime, inference: Inference) -> None:
        self._runtime = runtime
        self._inference = inference

    def server(self, request: Request) -> Response:
        return _json(messages.ServerMetadata("edge", __version__, EXTENSIONS))

    def live(self, request: Request) -> Response:
        return _json({"live": True})

    def ready(self, request: Request) -> Response:
        is_ready = self._runtime.is_ready
        models = [_state(status) for status in self._runtime.status()]
        answer: dict[str, Any] = {"ready": is_ready, "models": models}
        return _readiness(answer, is_ready, "not all models are ready")

    def model_ready(self, request: Request, name: str, version: str) -> Response:
        """Ready as what: engine, precision, placement, and whether that is a fallback and why."""
        status = self._inference.status(name, version)
        is_ready = status.state == "ready"
        answer = {"ready": is_ready, **_state(status)}
        return _readiness(answer, is_ready, not_ready(status))

    def metadata(self, request: Request, name: str, version: str) -> Response:
        model = self._inference.find(name, version).model
        return _json(
            messages.ModelMetadata(
                name=model.name,
                versions=self._runtime.versions(name),
                platform=model.engine,
                inputs=[_tensor(spec) for spec in model.inputs],
                outputs=[_tensor(spec) for spec in model.outputs],
            )
        )

    def config(self, request: Request, name: str, version: str) -> Response:
        model = self._inference.find(name, version).model
        return _json(
            messages.ModelConfig(
                name=model.name,
                platform=model.engine,
                backend=model.engine,
                input=[_config(spec) for spec in model.inputs],
                output=[_config(spec) for spec in model.outputs],
            )
        )

    def statistics(self, request: Request, name: str, version: str) -> Response:
        model = self._inference.find(name, version).model
        return _json(
            messages.StatisticsAnswer([_statistics(model.name, model.version, model.snapshot())])
        )

    def all_statistics(self, request: Request) -> Response:
        known = [
            _statistics(status.name, status.version, status.statistics)
            for status in self._runtime.status()
            if status.statistics is not None
        ]
        return _json(messages.StatisticsAnswer(known))

    def index(self, request: Request) -> Response:
        try:
            wanted = msgspec.json.decode(
                request.body.tobytes() or b"{}", type=messages.IndexRequest
            )
        except MALFORMED as error:
            raise InputError(f"not an index request: {error}") from error
        entries = [
            messages.IndexEntry(
                status.name,
                status.version,
                _INDEX_STATES.get(status.state, "UNAVAILABLE"),
                status.reason,
            )
            for status in self._runtime.status()
        ]
        return _json([entry for entry in entries if not wanted.ready or entry.state == "READY"])


def _json(value: Any, *, status: int = 200) -> Response:
    return Response([msgspec.json.encode(value)], status)


def _readiness(answer: dict[str, Any], is_ready: bool, otherwise: str) -> Response:
    return _json(answer) if is_ready else _json({"error": otherwise, **answer}, status=400)


def _state(status: ModelStatus) -> dict[str, Any]:
    """Who serves and where, without what changes at each inference or tells of the disk."""
    facts: dict[str, Any] = msgspec.to_builtins(status)
    return {key: value for key, value in facts.items() if key not in ("statistics", "path")}


def _dims(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else -1 for dim in spec.shape)


def _tensor(spec: TensorSpec) -> messages.TensorMetadata:
    return messages.TensorMetadata(spec.name, datatype_of(spec.dtype), _dims(spec))


def _config(spec: TensorSpec) -> messages.TensorConfig:
    datatype = datatype_of(spec.dtype)
    kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    return messages.TensorConfig(spec.name, kind, _dims(spec))


def _cache(snapshot: Snapshot) -> dict[str, messages.Duration]:
    counts = snapshot.cache
    if counts is None:
        return {}
    hits, misses = messages.Duration(counts.hits), messages.Duration(counts.misses)
    return {"cache_hit": hits, "cache_miss": misses}


def _statistics(name: str, version: str, snapshot: Snapshot) -> messages.ModelStatistics:
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

"""What KServe v2 tells of a server and its models, apart from inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from edge import __version__
from edge.server.describing import (
    json_response,
    model_statistics,
    readiness,
    tensor_config,
    tensor_metadata,
)
from edge.server.http.message import Request, Response
from edge.server.inference import not_ready
from edge.server.kserve import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.host import ModelStatus, Runtime
    from edge.server.inference import Inference
    from edge.server.pipelines import PipelineEndpoints
    from edge.telemetry.sender import SenderStatus

_NOT_METERED = {
    "energy_source": "none",
    "energy_why": 'nobody reads sensors: [power] policy is "off"; "watch" only looks on',
    "models": [],
}

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")


class Endpoints:
    """Each method answers one route; names and versions come from its path."""

    def __init__(
        self,
        runtime: Runtime,
        inference: Inference,
        pipelines: PipelineEndpoints,
        broker: Callable[[], SenderStatus] | None = None,
    ) -> None:
        self._runtime = runtime
        self._inference = inference
        self._pipelines = pipelines
        self._broker = broker

    def server(self, request: Request) -> Response:
        return json_response(messages.ServerMetadata("edge", __version__, EXTENSIONS))

    def live(self, request: Request) -> Response:
        return json_response({"live": True})

    def ready(self, request: Request) -> Response:
        is_ready = self._runtime.is_ready
        models = [_state(status) for status in self._runtime.status()]
        answer: dict[str, Any] = {"ready": is_ready, "models": models}
        strain = self._runtime.strain
        if strain is not None:
            answer["power"] = strain.summary()
        if self._broker is not None:
            status = self._broker()
            answer["mqtt"] = {"state": status.state, "reason": status.reason}
        return readiness(answer, is_ready, "not all models are ready")

    def cost(self, request: Request) -> Response:
        """What inferences cost so far, as telemetry tells it."""
        report = self._runtime.cost
        return json_response(report.metrics() if report is not None else _NOT_METERED)

    def model_ready(self, request: Request, name: str, version: str) -> Response:
        """Ready as what: engine, precision, placement, and whether that is a fallback and why."""
        status = self._runtime.status_of(name, version)
        is_ready = status.state in ("ready", "idle") and not status.is_withdrawn
        answer = {"ready": is_ready, **_state(status)}
        return readiness(answer, is_ready, not_ready(status))

    def metadata(self, request: Request, name: str, version: str) -> Response:
        model = self._inference.find(name, version).model
        return json_response(
            messages.ModelMetadata(
                name=model.name,
                versions=self._runtime.versions(name),
                platform=model.engine,
                inputs=[tensor_metadata(spec) for spec in model.inputs],
                outputs=[tensor_metadata(spec) for spec in model.outputs],
            )
        )

    def config(self, request: Request, name: str, version: str) -> Response:
        model = self._inference.find(name, version).model
        return json_response(
            messages.ModelConfig(
                name=model.name,
                platform=model.engine,
                backend=model.engine,
                input=[tensor_config(spec) for spec in model.inputs],
                output=[tensor_config(spec) for spec in model.outputs],
            )
        )

    def statistics(self, request: Request, name: str, version: str) -> Response:
        model = self._inference.find(name, version).model
        return json_response(
            messages.StatisticsAnswer(
                [model_statistics(model.name, model.version, model.snapshot())]
            )
        )

    def all_statistics(self, request: Request) -> Response:
        known = [
            model_statistics(status.name, status.version, status.statistics)
            for status in self._runtime.status()
            if status.statistics is not None
        ]
        known += self._pipelines.all_statistics()
        return json_response(messages.StatisticsAnswer(known))


def _state(status: ModelStatus) -> dict[str, Any]:
    """Who serves and where, without what changes at each inference or tells of the disk."""
    facts: dict[str, Any] = msgspec.to_builtins(status)
    return {key: value for key, value in facts.items() if key not in ("statistics", "path")}

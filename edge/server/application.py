"""From a request's method and path to what answers it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from edge import __version__
from edge.core.errors import UnsupportedError
from edge.server import coding, metrics
from edge.server.cost_metrics import cost_families
from edge.server.endpoints import Endpoints
from edge.server.failures import failure_response
from edge.server.handoff import when_done
from edge.server.health_metrics import health_families
from edge.server.http.message import Cancel, HttpError, Request, Respond, Response
from edge.server.inference import Inference, NotLoadedError
from edge.server.labels import Labels
from edge.server.memory_metrics import memory_families
from edge.server.pipeline_metrics import pipeline_families
from edge.server.pipelines import PipelineEndpoints
from edge.server.power_metrics import power_families
from edge.server.repository import Repository
from edge.server.telemetry_metrics import telemetry_families

if TYPE_CHECKING:
    from edge.host import Runtime
    from edge.server.http.message import Traffic
    from edge.telemetry.sender import SenderStatus

Endpoint = Callable[..., Response]
Route = tuple[str, Endpoint]

_ABSENT = ("logging", "trace", "systemsharedmemory", "cudasharedmemory")
"""Extensions of Triton's that clients ask for and that are not here, or not wholly."""


class Application:
    """Answers requests over a runtime, on one event loop.

    Args:
        traffic: What the HTTP side counts, for the metrics.
        may_control: Whether clients may load and unload models.
        broker: Tells how it stands with the MQTT broker, if there is to be one.
    """

    def __init__(
        self,
        runtime: Runtime,
        traffic: Callable[[], Traffic],
        *,
        max_body_bytes: int,
        may_control: bool = False,
        broker: Callable[[], SenderStatus] | None = None,
    ) -> None:
        self._runtime = runtime
        self._broker = broker
        self._traffic = traffic
        self._max_body_bytes = max_body_bytes
        self._inference = Inference(runtime)
        self._threads = coding.coding_threads()
        self._pipelines = PipelineEndpoints(runtime)
        self._repository = Repository(
            runtime, self._pipelines, self._inference.on_thread, may_control=may_control
        )
        endpoints = Endpoints(runtime, self._inference, self._pipelines, broker)
        self._routes: dict[tuple[str, ...], Route] = {
            (): ("GET", self._root),
            ("metrics",): ("GET", self._metrics),
            ("v2",): ("GET", endpoints.server),
            ("v2", "health", "live"): ("GET", endpoints.live),
            ("v2", "health", "ready"): ("GET", endpoints.ready),
            ("v2", "cost"): ("GET", endpoints.cost),
            ("v2", "models", "stats"): ("GET", endpoints.all_statistics),
            ("v2", "repository", "index"): ("POST", self._repository.index),
        }
        self._model_routes: dict[str, Route] = {
            "": ("GET", endpoints.metadata),
            "ready": ("GET", endpoints.model_ready),
            "config": ("GET", endpoints.config),
            "stats": ("GET", endpoints.statistics),
            "labels": ("POST", Labels(runtime).take),
        }
        self._pipeline_routes: dict[str, Route] = {
            "": ("GET", self._pipelines.metadata),
            "ready": ("GET", self._pipelines.ready),
            "config": ("GET", self._pipelines.config),
            "stats": ("GET", self._pipelines.statistics),
        }

    def __call__(self, request: Request, respond: Respond) -> Cancel | None:
        headers = request.head.headers
        accepted = headers.get(b"accept-encoding")
        coded = headers.get(b"content-encoding")
        try:
            if accepted is not None:
                respond = self._coding(respond, accepted)
            if coded is not None and coding.is_coded(coded):
                return self._decode(request, respond)
            return self._answer(request, respond)
        except Exception as error:
            respond(failure_response(error))
            return None

    def close(self) -> None:
        self._inference.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _answer(self, request: Request, respond: Respond) -> Cancel | None:
        try:
            return self._answer_now(request, respond)
        except NotLoadedError as error:
            return self._answer_later(error, request, respond)

    def _answer_later(self, error: NotLoadedError, request: Request, respond: Respond) -> Cancel:
        """Once the model is loaded; what the request asks for then may be called off as well."""
        cancels: list[Cancel | None] = []
        is_off = False

        def cancel() -> None:
            nonlocal is_off
            is_off = True
            for inner in cancels:
                if inner is not None:
                    inner()

        def go_on(failure: BaseException | None) -> None:
            if is_off:
                return
            try:
                if failure is not None:
                    raise failure
                cancels.append(self._answer_now(request, respond))
            except Exception as reason:
                respond(failure_response(reason))

        self._inference.load(error, go_on)
        return cancel

    def _answer_now(self, request: Request, respond: Respond) -> Cancel | None:
        path = request.head.path.decode("latin-1")
        segments = tuple([unquote(part) for part in path.strip("/").split("/") if part])
        route = self._routes.get(segments)
        if route is not None:
            respond(_endpoint(route, request)(request))
            return None
        if segments[:3] == ("v2", "repository", "models") and len(segments) == 5:
            _check_method("POST", request)
            return self._repository.control(request, respond, *segments[3:])
        name, version, action = _model_path(path, segments)
        is_pipeline = name in self._pipelines.names
        if action == "infer":
            _check_method("POST", request)
            infer = self._pipelines.infer if is_pipeline else self._inference.infer
            return infer(request, respond, name, version)
        route = (self._pipeline_routes if is_pipeline else self._model_routes).get(action)
        if route is None:
            raise _nothing_at(path)
        respond(_endpoint(route, request)(request, name, version))
        return None

    def _decode(self, request: Request, respond: Respond) -> Cancel:
        """Decompress on a thread, then go on here."""

        def go_on(done: Future[Any]) -> None:
            if done.cancelled():
                return
            try:
                self._answer(Request(request.head, done.result()), respond)
            except Exception as error:
                respond(failure_response(error))

        future = self._threads.submit(coding.decompress, request.body, self._max_body_bytes)
        when_done(future, go_on)
        return future.cancel

    def _coding(self, respond: Respond, accepted: bytes) -> Respond:
        """``respond`` that compresses first, on a thread, what is worth it."""
        wanted = coding.wanted_coding(accepted)

        def coded(response: Response) -> None:
            if not coding.is_worth_coding(response):
                respond(response)
                return
            future = self._threads.submit(coding.compress, response, wanted)
            when_done(future, lambda done: None if done.cancelled() else respond(done.result()))

        return coded if wanted else respond

    def _root(self, request: Request) -> Response:
        page: dict[str, Any] = {
            "name": "edge",
            "version": __version__,
            "models": self._runtime.names(),
        }
        if self._pipelines.names:
            page["pipelines"] = sorted(self._pipelines.names)
        links = {"protocol": "/v2", "metrics": "/metrics"}
        return Response([msgspec.json.encode({**page, **links})])

    def _metrics(self, request: Request) -> Response:
        models = self._runtime.status()
        more = (
            *memory_families(self._runtime.memory, models),
            *pipeline_families(self._runtime.pipeline_status()),
            *power_families(self._runtime.strain),
            *telemetry_families(self._broker() if self._broker else None),
            *health_families(self._runtime.health()),
            *cost_families(self._runtime.cost),
        )
        text = metrics.render(models, self._traffic(), more)
        return Response([text.encode()], content_type=metrics.CONTENT_TYPE)


def _model_path(path: str, segments: tuple[str, ...]) -> tuple[str, str, str]:
    """Name, version and action of ``/v2/models/{m}[/versions/{v}][/{action}]``; empty if absent."""
    if segments[:1] == ("v2",) and segments[1:2] and segments[1] in _ABSENT:
        raise UnsupportedError(f"{path[:200]} belongs to an extension that is not here")
    if segments[:2] != ("v2", "models") or len(segments) < 3:
        raise _nothing_at(path)
    name, *rest = segments[2:]
    version = ""
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    if len(rest) > 1:
        raise _nothing_at(path)
    return name, version, rest[0] if rest else ""


def _nothing_at(path: str) -> HttpError:
    return HttpError(404, f"there is nothing at {path[:200]}")


def _endpoint(route: Route, request: Request) -> Endpoint:
    method, endpoint = route
    _check_method(method, request)
    return endpoint


def _check_method(method: str, request: Request) -> None:
    given = request.head.method
    if given != method and (given, method) != ("HEAD", "GET"):
        raise HttpError(405, f"{given} is not for this path, {method} is", allow=method)

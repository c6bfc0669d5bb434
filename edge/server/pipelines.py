"""Pipelines over KServe v2: to a client, each is a model of its name.

Its input ``picture`` is UINT8: the bytes of a picture file [n], or pixels [height, width, 3] in BGR
order. What is found is one BYTES element of JSON per output; tensors are tensors, of no elements
where their step was left out.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edge.core.errors import InputError, NotFoundError
from edge.core.pipelines import PICTURE
from edge.core.tensor import TensorSpec
from edge.server.describing import (
    INDEX_STATES,
    json_response,
    model_statistics,
    readiness,
    tensor_config,
    tensor_metadata,
)
from edge.server.failures import failure_response
from edge.server.handoff import when_done
from edge.server.inference import inference_response, json_bytes
from edge.server.kserve import messages
from edge.server.kserve.codec import Call, Codec
from edge.server.kserve.datatypes import TEXT, numpy_dtype

if TYPE_CHECKING:
    from edge.core.tensor import Array
    from edge.host import Runtime
    from edge.host.pipelines import Pipeline, PipelineStatus
    from edge.server.http.message import Cancel, Request, Respond, Response

PLATFORM = "pipeline"
VERSION = "1"
_PICTURE = TensorSpec(PICTURE, "uint8", ("bytes",))
_now = time.perf_counter_ns


class _Served:
    """A pipeline and how its requests are read and answered."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.inputs = (_PICTURE, *pipeline.inputs) if pipeline.takes_picture else pipeline.inputs
        self.outputs = pipeline.outputs
        self.codec = Codec(pipeline.name, VERSION, self.inputs, self.outputs)

    def response(self, call: Call, found: dict[str, Any], input_ns: int) -> Response:
        start = _now()
        outputs = {spec.name: _tensor(found[spec.name], spec) for spec in self.outputs}
        response = inference_response(self.codec.encode(call, outputs))
        self.pipeline.statistics.transfer(input_ns, _now() - start)
        return response


class PipelineEndpoints:
    """What KServe v2 says of pipelines, and their inference, on their own threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        names = runtime.pipeline_names()
        self._served = {name: _Served(runtime.pipeline(name)) for name in names}
        self.names = frozenset(names)

    def infer(self, request: Request, respond: Respond, name: str, version: str) -> Cancel:
        """Answer later; what is returned takes a request that waits off the queue.

        Raises:
            EdgeError: The request is wrong, or too many wait.
        """
        served = self._find(name, version)
        start = _now()
        call = served.codec.decode(request.body, json_bytes(request))
        inputs = {
            key: _picture(value) if key == PICTURE else value for key, value in call.feeds.items()
        }
        input_ns = _now() - start
        future = served.pipeline.submit(inputs, priority=call.priority, timeout_us=call.timeout_us)
        answered: Future[Response] = Future()

        def encode(done: Future[dict[str, Any]]) -> None:
            """On the pipeline's thread: a large mask would hold up the event loop."""
            if done.cancelled():
                return
            try:
                response = served.response(call, done.result(), input_ns)
            except Exception as error:
                response = failure_response(error)
            answered.set_result(response)

        when_done(answered, lambda done: respond(done.result()))
        future.add_done_callback(encode)
        return future.cancel

    def ready(self, request: Request, name: str, version: str) -> Response:
        status = self._status(name, version)
        is_ready = status.state == "ready"
        models = {step: one.model for step, one in status.steps.items()}
        facts = {"name": name, "state": status.state, "reason": status.reason, "steps": models}
        return readiness(
            {"ready": is_ready, **facts}, is_ready, f"pipeline {name} is not ready: {status.reason}"
        )

    def metadata(self, request: Request, name: str, version: str) -> Response:
        served = self._find(name, version)
        return json_response(
            messages.ModelMetadata(
                name=name,
                versions=[VERSION],
                platform=PLATFORM,
                inputs=[tensor_metadata(spec) for spec in served.inputs],
                outputs=[tensor_metadata(spec) for spec in served.outputs],
            )
        )

    def config(self, request: Request, name: str, version: str) -> Response:
        served = self._find(name, version)
        return json_response(
            messages.ModelConfig(
                name=name,
                platform=PLATFORM,
                backend=PLATFORM,
                input=[tensor_config(spec) for spec in served.inputs],
                output=[tensor_config(spec) for spec in served.outputs],
            )
        )

    def statistics(self, request: Request, name: str, version: str) -> Response:
        snapshot = self._find(name, version).pipeline.statistics.snapshot()
        return json_response(messages.StatisticsAnswer([model_statistics(name, VERSION, snapshot)]))

    def all_statistics(self) -> list[messages.ModelStatistics]:
        return [
            model_statistics(name, VERSION, served.pipeline.statistics.snapshot())
            for name, served in self._served.items()
        ]

    def index_entries(self) -> list[messages.IndexEntry]:
        return [
            messages.IndexEntry(
                status.name, VERSION, INDEX_STATES.get(status.state, "UNAVAILABLE"), status.reason
            )
            for status in self._runtime.pipeline_status()
        ]

    def _find(self, name: str, version: str) -> _Served:
        if version not in ("", VERSION):
            raise NotFoundError(f"{name} has no version {version!r}", hint=f"it has: {VERSION}")
        return self._served[name]

    def _status(self, name: str, version: str) -> PipelineStatus:
        self._find(name, version)
        return next(status for status in self._runtime.pipeline_status() if status.name == name)


def _picture(array: Array) -> Any:
    """Pixels as they are, or the bytes of a file."""
    if array.ndim == 1:
        return array.data
    if array.ndim == 2 and 1 in array.shape:  # a file, as one of a batch
        return array.reshape(-1).data
    if array.ndim == 4 and array.shape[0] == 1:
        return array[0]
    if array.ndim != 3:
        raise InputError(
            f"input {PICTURE!r} can not have the shape {list(array.shape)}",
            hint="send the bytes of a picture file [n], or pixels [height, width, 3]",
        )
    return array


def _tensor(found: Any, spec: TensorSpec) -> Array:
    if spec.dtype == TEXT and not isinstance(found, np.ndarray):
        text = np.empty(1, object)
        text[0] = msgspec.json.encode(found, enc_hook=_plain)
        return text
    return np.empty(0, numpy_dtype(spec.dtype)) if found is None else found


def _plain(value: Any) -> Any:
    """Tensors within what is found are nested lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} is no data")

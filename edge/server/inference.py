"""Infers for requests: quick models on the event loop, all others on their own threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from edge.core.errors import UnavailableError
from edge.host.response_cache import Recalled
from edge.server.failures import failure_response
from edge.server.handoff import when_done
from edge.server.http.message import Cancel, HttpError, Request, Respond, Response
from edge.server.kserve import messages
from edge.server.kserve.codec import HEADER_LENGTH, Answer, Call, Codec

if TYPE_CHECKING:
    from edge.core.tensor import Array
    from edge.host import Model, ModelStatus, Runtime

BINARY = "application/octet-stream"
QUICK_MS = 0.2
_LOOK_EVERY = 32
_LOADERS = 4
_MAX_DIGITS = 16
_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_now = time.perf_counter_ns


class Pace:
    """Whether a model is quick: nine in ten of its last inferences took less than ``QUICK_MS``.

    A hand-off to its thread and back costs 50 µs of CPU (45 against 96 µs per request of 64 bytes
    on x86), and the loop is held up no longer than by reading a large body. One slow inference of
    a quick model does hold it up; by the next look the model is back on its thread.
    """

    def __init__(self, model: Model) -> None:
        self._statistics = model.statistics
        self._seen = model.statistics.snapshot().stages["infer"]
        self._left = _LOOK_EVERY
        self.is_quick = False

    def step(self) -> bool:
        """Count a request; look at the statistics only now and then, they cost 20 µs."""
        self._left -= 1
        if self._left <= 0:
            self._left = _LOOK_EVERY
            seen = self._statistics.snapshot().stages["infer"]
            recent = seen.since(self._seen)
            self._seen = seen
            self.is_quick = recent.count > 0 and recent.percentile_ms(90) < QUICK_MS
        return self.is_quick


class Served:
    """A loaded model and what the server keeps of it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.opened = model.opened
        self.codec = Codec(model.name, model.version, model.inputs, model.outputs)
        self.pace = Pace(model)

    @property
    def is_current(self) -> bool:
        """Whether the model is loaded, with the session whose tensors the codec knows."""
        return self.model.opened is self.opened and self.model.seat.is_taken

    def infer_here(self, call: Call) -> dict[str, Array] | None:
        """Outputs, if the request is best run on the event loop, where nothing waits for it.

        Also with batches: what one saves a quick model is less than a hand-off costs. But a batch
        of a fixed size is filled up by the model's own thread only, which also loads what is not
        in memory, and waits while the device is held back.
        """
        model = self.model
        if model.is_held_back or not self.pace.step() or model.batches.is_padded:
            return None
        sitting = model.seat.take_now()
        if sitting is None:
            return None
        try:
            return model.infer(call.feeds, at_once=True)
        finally:
            model.seat.give(sitting)

    def submit(self, call: Call) -> Future[dict[str, Array]]:
        """Outputs of the model's own threads."""
        feeds, priority, timeout_us = call.feeds, call.priority, call.timeout_us
        return self.model.submit(feeds, priority=priority, timeout_us=timeout_us)


class NotLoadedError(UnavailableError):
    """A model that was never loaded; ``Inference.load`` loads it."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"model {name} {version} is not loaded yet")
        self.key = name, version


class Inference:
    """Answers inference requests over a runtime, on one event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._served: dict[tuple[str, str], Served] = {}
        self._generation = runtime.generation
        self._threads = ThreadPoolExecutor(_LOADERS, thread_name_prefix="edge-load")
        self._loading: dict[tuple[str, str], Future[Model]] = {}

    def find(self, name: str, version: str) -> Served:
        """A model that answers; never loads one, which would hold up the event loop.

        Raises:
            NotFoundError: There is none of that name and version.
            NotLoadedError: It has to be loaded first.
            UnavailableError: It was unloaded, is being built, or will never be ready.
        """
        if self._runtime.generation != self._generation:
            self._generation = self._runtime.generation
            self._served.clear()
        served = self._served.get((name, version))
        if served is not None and served.is_current:
            return served
        status = self._runtime.status_of(name, version)
        if status.is_withdrawn or status.state in ("building", "failed"):
            raise UnavailableError(not_ready(status))
        if status.placement is None:
            raise NotLoadedError(name, status.version)
        served = Served(self._runtime.model(name, status.version))
        self._served[name, version] = served
        return served

    def load(self, error: NotLoadedError, then: Callable[[BaseException | None], object]) -> None:
        """Load what was found missing, on a thread; ``then`` is told on the event loop."""
        future = self._loading.get(error.key)
        if future is None:
            future = self._threads.submit(self._runtime.model, *error.key)
            self._loading[error.key] = future
            when_done(future, lambda _: self._loading.pop(error.key))
        when_done(future, lambda done: then(done.exception()))

    def on_thread(self, call: Callable[[], object]) -> Future[object]:
        """Do what takes as long as loading."""
        return self._threads.submit(call)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def infer(self, request: Request, respond: Respond, name: str, version: str) -> Cancel | None:
        """Answer now or later; what is returned takes a request that waits off the queue.

        Raises:
            EdgeError: The request is wrong, or the model is missing, not ready or failing.
        """
        served = self.find(name, version)
        start = _now()
        call = served.codec.decode(request.body, json_bytes(request))
        input_ns = _now() - start
        outputs = served.infer_here(call)
        if outputs is not None:
            respond(_answer(served, call, outputs, input_ns))
            return None
        try:
            future = served.submit(call)
        except UnavailableError:
            if not served.model.is_closed:
                raise
            served = self.find(name, version)  # the one that came for it in between
            future = served.submit(call)

        def finish(done: Future[dict[str, Array]]) -> None:
            if done.cancelled():
                return
            try:
                response = _answer(served, call, done.result(), input_ns)
            except Exception as error:
                response = failure_response(error)
            respond(response)

        when_done(future, finish)
        return future.cancel


def not_ready(status: ModelStatus) -> str:
    """In which state a model is instead, and why."""
    state = "unloaded" if status.is_withdrawn else status.state
    reason = f": {status.reason}" if status.reason else ""
    return f"model {status.name} {status.version} is {state}{reason}"


def _answer(served: Served, call: Call, outputs: dict[str, Any], input_ns: int) -> Response:
    start = _now()
    watch = served.model.watch
    if call.id and watch is not None:
        watch.remember(call.id, call.feeds, outputs, served.opened.variant)
    response = inference_response(served.codec.encode(call, outputs, _mark(outputs)))
    served.model.statistics.transfer(input_ns, _now() - start)
    return response


def _mark(outputs: dict[str, Any]) -> messages.CacheMark | None:
    if not isinstance(outputs, Recalled):
        return None
    if outputs.is_perceptual:
        return messages.CacheMark("perceptual", round(outputs.difference, 6))
    return messages.CacheMark("exact")


def inference_response(answer: Answer) -> Response:
    if answer.json_bytes is None:
        return Response(answer.parts)
    headers = ((HEADER_LENGTH, answer.json_bytes),)
    return Response(answer.parts, content_type=BINARY, headers=headers)


def json_bytes(request: Request) -> int | None:
    """How much of a body is JSON, where raw tensors follow; None: all."""
    value = request.head.headers.get(_HEADER_LENGTH)
    if value is None:
        return None
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise HttpError(400, f"{HEADER_LENGTH} is no length: {value[:40]!r}")
    return int(value)

"""Triton's model repository extension: what there is, and loading and unloading by request."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import InputError, UnsupportedError
from edge.server.describing import INDEX_STATES, json_response
from edge.server.failures import failure_response
from edge.server.handoff import when_done
from edge.server.http.message import HttpError, Response
from edge.server.kserve import messages
from edge.server.kserve.codec import MALFORMED

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from edge.host import ModelStatus, Runtime
    from edge.server.http.message import Cancel, Request, Respond
    from edge.server.pipelines import PipelineEndpoints

_VERBS = ("load", "unload")


class Repository:
    """Answers ``/v2/repository``.

    Args:
        on_thread: Does what takes long elsewhere than on the event loop.
        may_control: Whether clients may load and unload models.
    """

    def __init__(
        self,
        runtime: Runtime,
        pipelines: PipelineEndpoints,
        on_thread: Callable[[Callable[[], object]], Future[object]],
        *,
        may_control: bool,
    ) -> None:
        self._runtime = runtime
        self._pipelines = pipelines
        self._on_thread = on_thread
        self._may_control = may_control

    def index(self, request: Request) -> Response:
        wanted = _decoded(request, messages.IndexRequest)
        entries = [_entry(status) for status in self._runtime.status()]
        entries += self._pipelines.index_entries()
        return json_response(
            [entry for entry in entries if not wanted.ready or entry.state == "READY"]
        )

    def control(self, request: Request, respond: Respond, name: str, verb: str) -> Cancel:
        """Load or unload a model, or activate the version that is named; answers with nothing.

        Raises:
            HttpError: Clients may not, or there is no such verb.
            UnsupportedError: The model's configuration or files are to be replaced.
        """
        if verb not in _VERBS:
            raise HttpError(404, f"a model can be {' and '.join(_VERBS)}ed, not {verb[:40]!r}")
        if not self._may_control:
            raise HttpError(
                403, "models are not loaded by request (allow it with control = true in [serve])"
            )
        given = _decoded(request, messages.ControlRequest).parameters
        version = str(given.get("version", ""))
        if other := sorted(given.keys() - {"unload_dependents", "version"}):
            raise UnsupportedError(
                f"{', '.join(other)}: a model is what its bundle says",
                hint="put another bundle into the served folder",
            )
        act: Callable[..., object] = self._runtime.unload
        if verb == "load":
            act = self._runtime.activate if version else self._runtime.load
        future = self._on_thread(partial(act, name, version) if version else partial(act, name))

        def finish(done: Future[Any]) -> None:
            if done.cancelled():
                return
            error = done.exception()
            respond(Response([]) if error is None else failure_response(error))

        when_done(future, finish)
        return future.cancel


def _entry(status: ModelStatus) -> messages.IndexEntry:
    """One that is idle answers, after it was loaded again, and so is ready."""
    state = "ready" if status.state == "idle" else status.state
    word = INDEX_STATES.get(state, "UNAVAILABLE")
    if status.is_withdrawn:
        return messages.IndexEntry(status.name, status.version, "UNAVAILABLE", "unloaded")
    return messages.IndexEntry(status.name, status.version, word, status.reason)


def _decoded(request: Request, kind: Any) -> Any:
    try:
        return msgspec.json.decode(request.body.tobytes() or b"{}", type=kind)
    except MALFORMED as error:
        raise InputError(f"not a request to the repository: {error}") from error

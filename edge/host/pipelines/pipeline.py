"""A declared pipeline that runs on the models of a runtime."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import EdgeError, InputError, SettingsError, UnavailableError
from edge.core.pipelines import PICTURE
from edge.core.tensor import TensorSpec, check_feeds
from edge.host.pipelines import tensors
from edge.host.pipelines.answers import answer, outermost
from edge.host.pipelines.graph import plan
from edge.host.pipelines.running import Run
from edge.host.pipelines.work import StepWork, Terms
from edge.host.statistics import Snapshot, Statistics
from edge.vision import load_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.core.manifest import Manifest
    from edge.core.pipelines import PipelineSpec
    from edge.core.tensor import Array
    from edge.host.model import Model
    from edge.host.pipelines.graph import Graph
    from edge.host.status import ModelStatus
    from edge.vision.image import Picture

_now = time.perf_counter_ns
_CAN_SERVE = ("ready", "idle")


class StepStatus(msgspec.Struct, frozen=True):
    """A step's runs, all boxes of a picture being one, and how often there was nothing to do."""

    model: str
    skipped: int
    statistics: Snapshot


class PipelineStatus(msgspec.Struct, frozen=True):
    """``state`` is ready, or that of the model that keeps it from being so."""

    name: str
    state: str
    reason: str
    statistics: Snapshot
    steps: dict[str, StepStatus]


class Pipeline:
    """Runs pictures, or tensors, through models. All methods may be called from any thread."""

    def __init__(self, graph: Graph, spec: PipelineSpec, find: Callable[[str], Model]) -> None:
        self.name = graph.name
        self.graph = graph
        self.statistics = Statistics()
        self._works = {name: StepWork(step, find) for name, step in graph.steps.items()}
        self._queue = spec.queue
        self._threads = ThreadPoolExecutor(spec.instances, f"edge-{self.name}")
        self._places = threading.Semaphore(spec.instances + spec.queue)
        self._is_closed = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that it takes, beside the picture if ``takes_picture``."""
        return tuple(self.graph.inputs.values())

    @property
    def takes_picture(self) -> bool:
        return self.graph.takes_picture

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it answers; a prediction is one text, of JSON."""
        specs = []
        for output in outermost(self.graph):
            manifest = self.graph.steps[output.step].manifest
            if output.tensor and manifest is not None:
                specs.append(tensors.output_spec(manifest, output.tensor, output.name))
            else:
                specs.append(TensorSpec(output.name, "string", (1,)))
        return tuple(specs)

    def run(self, inputs: Picture | Mapping[str, Any]) -> dict[str, Any]:
        """Run all steps on the caller's thread, and models beside each other on their own.

        Args:
            inputs: A picture (a path, the bytes of a file, or uint8 (height, width, 3) BGR), or a
                dict of the pipeline's tensors by name, with the picture as ``picture``.
        Returns:
            Name of an output -> boxes and labels as dicts and lists, or an array. What steps say
            of a box stands in it, under their names; None where a step was left out.
        Raises:
            InputError: The picture can't be read, or a tensor is missing or wrong.
            EdgeError: A step failed; the message says which.
        """
        if self._is_closed:
            raise self._closed()
        return self._run(_by_name(inputs), Terms(is_here=True), _now())

    def submit(
        self,
        inputs: Picture | Mapping[str, Any],
        *,
        priority: int = 0,
        timeout_us: int = 0,
    ) -> Future[dict[str, Any]]:
        """``run`` on one of the pipeline's own threads; what is given must not change meanwhile.

        Args:
            priority: In the queues of all its models: 1 is first, 0 stands for 10.
            timeout_us: How long it may wait for a thread, and then for each model; 0 for as long
                as it takes.
        Raises:
            UnavailableError: Too many wait, or the runtime is closed.
        """
        if priority < 0 or timeout_us < 0:
            raise InputError(f"priority {priority} and timeout {timeout_us} must not be negative")
        if not self._places.acquire(blocking=False):
            self.statistics.refused("full")
            raise UnavailableError(
                f"{self._queue} requests wait for pipeline {self.name} already",
                hint=f"send less at once, or raise queue in [pipelines.{self.name}] of edge.toml",
            )
        try:
            terms = Terms(priority, timeout_us)
            future = self._threads.submit(self._run, _by_name(inputs), terms, _now())
        except RuntimeError as error:
            self._places.release()
            raise self._closed() from error
        future.add_done_callback(lambda _: self._places.release())
        return future

    def status(self, models: list[ModelStatus]) -> PipelineStatus:
        """Counters so far, and whether all the models can serve."""
        state, reason = "ready", ""
        for name, work in self._works.items():
            of_model = [model for model in models if model.name == work.step.spec.model]
            if not any(model.state in _CAN_SERVE and not model.is_withdrawn for model in of_model):
                state, why = _obstacle(of_model)
                reason = f"step {name}: model {work.step.spec.model} {why}"
                break
        steps = {
            name: StepStatus(work.step.spec.model, work.skipped, work.statistics.snapshot())
            for name, work in self._works.items()
        }
        return PipelineStatus(self.name, state, reason, self.statistics.snapshot(), steps)

    def close(self) -> None:
        """Finish what was submitted; the models stay."""
        self._is_closed = True
        self._threads.shutdown()

    def __repr__(self) -> str:
        return f"<Pipeline {self.name}: {' → '.join(self.graph.steps)}>"

    def _run(self, inputs: Mapping[str, Any], terms: Terms, asked_ns: int) -> dict[str, Any]:
        start = _now()
        waited_ns = start - asked_ns
        if 0 < terms.timeout_us * 1000 < waited_ns:
            self.statistics.refused("late")
            raise UnavailableError(
                f"the request's timeout passed while it waited {waited_ns / 1e6:.1f} ms for "
                f"pipeline {self.name}",
                hint="give it more time, or send less at once",
            )
        try:
            picture, feeds = self._read(inputs)
            found = Run(self.graph, self._works, picture, feeds, terms).run()
            answered = answer(self.graph, found)
        except BaseException as error:
            self.statistics.failure(_now() - asked_ns, error)
            raise
        self.statistics.success(_now() - start, waited_ns)
        return answered

    def _read(self, inputs: Mapping[str, Any]) -> tuple[Array | None, dict[str, Any]]:
        """The picture, if there is one, and the tensors."""
        feeds = dict(inputs)
        try:
            picture = load_image(self._picture(feeds)) if self.takes_picture else None
            check_feeds(self.inputs, feeds)
        except EdgeError as error:
            raise type(error)(f"pipeline {self.name}: {error}", hint=error.hint) from error
        return picture, feeds

    def _picture(self, feeds: dict[str, Any]) -> Picture:
        if PICTURE not in feeds:
            raise InputError(f"input {PICTURE!r} is missing; given: {sorted(feeds) or 'nothing'}")
        return feeds.pop(PICTURE)

    def _closed(self) -> UnavailableError:
        return UnavailableError(f"pipeline {self.name} is closed")


def _obstacle(versions: list[ModelStatus]) -> tuple[str, str]:
    """The state of a model that can not serve, and why it can't."""
    if not versions:
        return "failed", "is gone"
    newest = versions[-1]
    if newest.is_withdrawn:
        return "unloaded", "was unloaded"
    return newest.state, f"is {newest.state}" + (f": {newest.reason}" if newest.reason else "")


def _by_name(inputs: Picture | Mapping[str, Any]) -> Mapping[str, Any]:
    return inputs if isinstance(inputs, Mapping) else {PICTURE: inputs}


def make_pipelines(
    specs: Mapping[str, PipelineSpec],
    manifests: Mapping[str, Manifest | None],
    labels: Mapping[str, tuple[str, ...]],
    find: Callable[[str], Model],
) -> dict[str, Pipeline]:
    """Pipelines by name, each checked against the models that there are.

    Args:
        manifests: By the name of the model; None for one whose bundle is damaged.
        labels: Names of classes, by the name of the model; empty where there are none.
        find: Gives a model to run, by its name.
    Raises:
        SettingsError: One makes no sense, or has the name of a model.
    """
    for name in specs:
        if name in manifests:
            raise SettingsError(
                f"pipeline {name} has the name of a model", hint="give it one of its own"
            )
    graphs = {name: plan(name, spec, manifests, labels) for name, spec in specs.items()}
    return {name: Pipeline(graph, specs[name], find) for name, graph in graphs.items()}

"""One run of a pipeline: each step starts when what it needs is there, whoever else still runs."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from edge.core.errors import EdgeError, UnavailableError
from edge.core.pipelines import INPUT
from edge.host.pipelines import conditions
from edge.host.pipelines.crops import Region, around, chosen, on_picture, whole
from edge.host.pipelines.feeding import Part
from edge.host.pipelines.work import Found

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge.core.tensor import Array
    from edge.host.model import Model
    from edge.host.pipelines.conditions import Condition
    from edge.host.pipelines.feeding import Feeder, Key
    from edge.host.pipelines.graph import Graph, Step
    from edge.host.pipelines.work import StepWork, Terms

_now = time.perf_counter_ns


class _Open:
    """A step that runs: how many of its parts still do, and where its time went."""

    def __init__(self, work: StepWork, model: Model, feeder: Feeder | None) -> None:
        self.work = work
        self.model = model
        self.feeder = feeder
        self.parts = 0
        self.started_ns = _now()
        self.input_ns = self.output_ns = 0


class Run:
    """The way of one picture, or of one set of tensors, through a graph."""

    def __init__(
        self,
        graph: Graph,
        works: Mapping[str, StepWork],
        picture: Array | None,
        tensors: Mapping[str, Array],
        terms: Terms,
    ) -> None:
        self.found: dict[str, dict[Key, Found]] = {}
        self._graph = graph
        self._works = works
        self._picture = picture
        self._tensors = tensors
        self._terms = terms
        self._open: dict[str, _Open] = {}
        self._running: set[Future[Any]] = set()
        self._done: SimpleQueue[tuple[str, Part, Future[dict[str, Array]]]] = SimpleQueue()

    def run(self) -> dict[str, dict[Key, Found]]:
        """Run all steps; what each found by its key, in the order of boxes.

        Raises:
            EdgeError: A step failed; the message begins with the pipeline's name and the step's.
        """
        sorter = self._graph.sorter()
        try:
            while sorter.is_active():
                ready = sorter.get_ready()
                for name in ready:
                    with self._naming(name):
                        if not self._start(name, is_alone=len(ready) == 1):
                            sorter.done(name)
                if not ready:
                    name, part, future = self._done.get()
                    with self._naming(name):
                        if self._end(name, part, future):
                            sorter.done(name)
        finally:
            for future in self._running:  # only if a step failed: the others need not go on
                future.cancel()
        return self.found

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Errors count as the step's, and say which one it was."""
        try:
            yield
        except BaseException as error:
            spent_ns = _now() - self._open[name].started_ns if name in self._open else 0
            self._works[name].statistics.failure(spent_ns, error)
            if not isinstance(error, EdgeError):
                raise
            text = f"pipeline {self._graph.name}, step {name}: {error}"
            raise type(error)(text, hint=error.hint) from error

    def _start(self, name: str, *, is_alone: bool) -> bool:
        """Give a step's model its work; False if there is none."""
        work = self._works[name]
        self.found[name] = {}
        keys = self._keys(work.step)
        if not keys:
            work.skip()
            return False
        model = work.model()
        feeder = work.feeder(model) if work.step.takes_picture else None
        opened = self._open[name] = _Open(work, model, feeder)
        is_one = len(keys) <= (feeder.max_rows if feeder is not None else 1)
        is_here = self._terms.is_here and is_alone and is_one and not self._running
        begin = _now()
        for part in self._parts(work.step, feeder, keys):
            opened.input_ns += _now() - begin
            self._submit(name, part, is_here=is_here)
            begin = _now()
        return True

    def _submit(self, name: str, part: Part, *, is_here: bool = False) -> None:
        opened = self._open[name]
        if is_here and not opened.model.is_held_back:  # else it waits, and has its time limit
            future = _infer(opened.model, part.feeds)
        else:
            priority, timeout_us, _ = self._terms
            future = opened.model.submit(part.feeds, priority=priority, timeout_us=timeout_us)
        opened.parts += 1
        self._running.add(future)
        future.add_done_callback(lambda done: self._done.put((name, part, done)))

    def _end(self, name: str, part: Part, future: Future[dict[str, Array]]) -> bool:
        """Take what a model answered; whether that was all that its step waits for."""
        self._running.discard(future)
        opened = self._open[name]
        opened.parts -= 1
        try:
            outputs = future.result()
        except EdgeError as error:
            if isinstance(error, UnavailableError) or not self._halve(name, part):
                raise
            return False
        begin = _now()
        step, found = opened.work.step, self.found[name]
        finds, top, decode = step.finds, step.spec.top, opened.model.decode
        for number, (key, tensors) in enumerate(zip(part.keys, part.split(outputs), strict=True)):
            geometry = part.geometries[number] if part.geometries else None
            prediction: Any = decode(tensors, geometry, top=top) if finds else None
            if finds == "boxes":
                prediction = on_picture(prediction, part.regions[number])
            found[key] = Found(prediction, tensors)
        if opened.feeder is not None:
            opened.feeder.end(part)
        opened.output_ns += _now() - begin
        if opened.parts:
            return False
        self.found[name] = dict(sorted(found.items()))  # parts end in any order
        spent = _now() - opened.started_ns
        opened.work.statistics.success(spent - opened.input_ns - opened.output_ns)
        opened.work.statistics.transfer(opened.input_ns, opened.output_ns)
        return True

    def _halve(self, name: str, part: Part) -> bool:
        """Try a batch that failed again as two: it may be too large for the engine."""
        feeder = self._open[name].feeder
        if feeder is None or not feeder.can_halve(part):
            return False
        for half in part.halves():
            self._submit(name, half)
        return True

    def _keys(self, step: Step) -> list[Key]:
        """For which boxes a step runs, or for the whole."""
        keys: list[Key] = [()]
        if step.path and step.takes_picture:
            finder = self.found[step.spec.crop]
            keys = [
                (*key, number)
                for key, found in finder.items()
                for number in chosen(found.prediction, step.spec)
            ]
        elif step.path:
            sources = {ref.step for ref in step.inputs.values() if ref.step != INPUT}
            deepest = max(sources, key=lambda name: len(self._works[name].step.path))
            keys = list(self.found[deepest])
        return [key for key in keys if self._is_due(step, key)]

    def _is_due(self, step: Step, key: Key) -> bool:
        """Whether conditions hold, and what the step takes is there: a step before may have been
        left out itself."""
        sources = {ref.step for ref in step.inputs.values() if ref.step != INPUT}
        return all(self._of(source, key) is not None for source in sources) and all(
            self._holds(condition, key) for condition in step.conditions
        )

    def _holds(self, condition: Condition, key: Key) -> bool:
        if condition.step == INPUT:
            return condition.holds_for_tensor(self._tensors[condition.fact])
        found = self._of(condition.step, key)
        if found is None:
            return False
        step = self._works[condition.step].step
        if condition.fact in conditions.FACTS and step.finds in ("labels", "boxes"):
            return condition.holds_for_found(found.prediction)
        return condition.holds_for_tensor(found.tensors[condition.fact])

    def _of(self, name: str, key: Key) -> Found | None:
        """What a step found for a box, or for one of those that the box was found in."""
        return self.found[name].get(key[: len(self._works[name].step.path)])

    def _parts(self, step: Step, feeder: Feeder | None, keys: list[Key]) -> Iterator[Part]:
        if feeder is not None:
            assert self._picture is not None
            regions = [self._region(step, key) for key in keys]
            yield from feeder.parts(self._picture, keys, regions)
            return
        for key in keys:
            yield Part((key,), {name: self._tensor(ref, key) for name, ref in step.inputs.items()})

    def _tensor(self, reference: Any, key: Key) -> Array:
        if reference.step == INPUT:
            return self._tensors[reference.tensor]
        found = self._of(reference.step, key)
        assert found is not None
        return found.tensors[reference.tensor]

    def _region(self, step: Step, key: Key) -> Region:
        assert self._picture is not None
        if not key:
            return whole(self._picture)
        boxes = self.found[step.spec.crop][key[:-1]].prediction
        return around(boxes[key[-1]], step.spec.margin, self._picture)


def _infer(model: Model, feeds: dict[str, Array]) -> Future[dict[str, Array]]:
    """``Model.infer``, with its answer as that of ``Model.submit``."""
    future: Future[dict[str, Array]] = Future()
    try:
        future.set_result(model.infer(feeds))
    except Exception as error:
        future.set_exception(error)
    return future

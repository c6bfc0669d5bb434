"""From a declared pipeline to a graph that is known to make sense, before anything runs."""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edge.core.errors import SettingsError
from edge.core.manifest import Manifest
from edge.core.pipelines import INPUT, PICTURE, StepSpec
from edge.core.tensor import TensorSpec
from edge.host.pipelines import conditions, tensors
from edge.host.pipelines.conditions import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge.core.pipelines import PipelineSpec

_RESERVED = (INPUT, PICTURE, "x0", "y0", "x1", "y1", "index", "name", "score")
"""Names of inputs and of what an answer says of a box, beside which results of steps stand."""


class Reference(NamedTuple):
    """A tensor of a step, or of the pipeline's inputs."""

    step: str
    tensor: str


class Step(msgspec.Struct, frozen=True):
    """A step and its place. It runs once for each box of the last step in ``path``, each of which
    found its boxes in one of the step before; with an empty path it runs once.

    ``manifest`` is None where the model's bundle is damaged: then nothing is known of it.
    """

    name: str
    spec: StepSpec
    manifest: Manifest | None
    inputs: dict[str, Reference]
    conditions: tuple[Condition, ...]
    path: tuple[str, ...] = ()

    @property
    def takes_picture(self) -> bool:
        return not self.inputs

    @property
    def finds(self) -> str:
        """``labels``, ``boxes`` or ``mask``; empty if its tensors are all there is."""
        task = self.manifest.task if self.manifest is not None else "tensors"
        if task == "classification":
            return "labels"
        kinds = {"detection": "boxes", "segmentation": "mask"}
        return kinds.get(task, "") if self.takes_picture else ""  # these need the picture's size

    @property
    def needs(self) -> set[str]:
        """The steps that have to end before it can start."""
        named = {self.spec.crop} | {reference.step for reference in self.inputs.values()}
        named |= {condition.step for condition in self.conditions}
        return named - {"", INPUT}


class Output(NamedTuple):
    """What a step found, or one of its tensors."""

    step: str
    tensor: str = ""

    @property
    def name(self) -> str:
        return f"{self.step}.{self.tensor}" if self.tensor else self.step


class Graph(msgspec.Struct, frozen=True):
    """``steps`` in an order in which they can run; ``inputs`` are tensors beside the picture."""

    name: str
    steps: dict[str, Step]
    inputs: dict[str, TensorSpec]
    outputs: tuple[Output, ...]

    @property
    def takes_picture(self) -> bool:
        return any(step.takes_picture for step in self.steps.values())

    def sorter(self) -> TopologicalSorter[str]:
        sorter = TopologicalSorter({name: step.needs for name, step in self.steps.items()})
        sorter.prepare()
        return sorter


def plan(
    name: str,
    spec: PipelineSpec,
    manifests: Mapping[str, Manifest | None],
    labels: Mapping[str, tuple[str, ...]],
) -> Graph:
    """Check a declared pipeline against the models that there are.

    Args:
        manifests: By the name of the model.
        labels: Names of its classes, by the same; empty if it has none.
    Raises:
        SettingsError: It has a cycle, names what is not there, or its tensors do not fit.
    """
    if not spec.steps:
        raise SettingsError(f"pipeline {name} has no steps")
    draft: dict[str, Step] = {}
    steps: dict[str, Step] = {}
    inputs: dict[str, TensorSpec] = {}
    for step, given in spec.steps.items():
        with _naming(name, step):
            draft[step] = _draft(step, given, manifests)
    for step in _in_order(name, draft):
        with _naming(name, step):
            steps[step] = _placed(draft[step], steps)
            _check_labels(steps[step], steps, labels)
            _collect(steps[step], inputs)
    for step, placed in steps.items():
        with _naming(name, step):
            _check_flags(placed, inputs)
    return Graph(name, steps, inputs, _outputs(name, spec, steps))


@contextmanager
def _naming(pipeline: str, step: str) -> Iterator[None]:
    """Errors say which step is wrong."""
    try:
        yield
    except SettingsError as error:
        text = f"pipeline {pipeline}, step {step}: {error}"
        raise SettingsError(text, hint=error.hint) from error


def _draft(name: str, spec: StepSpec, manifests: Mapping[str, Manifest | None]) -> Step:
    """A step whose place is still to be found."""
    if name in _RESERVED:
        raise SettingsError("no step can have this name", hint=f"taken: {', '.join(_RESERVED)}")
    if spec.model not in manifests:
        raise SettingsError(
            f"there is no model named {spec.model!r}",
            hint=f"there are: {', '.join(sorted(manifests))}",
        )
    when = (spec.when,) if isinstance(spec.when, str) else spec.when
    inputs = {tensor: _reference(text) for tensor, text in spec.inputs.items()}
    return Step(name, spec, manifests.get(spec.model), inputs, tuple(map(conditions.parse, when)))


def _reference(text: str) -> Reference:
    step, _, tensor = text.partition(".")
    if not step or not tensor:
        raise SettingsError(f"{text!r} names no tensor", hint="write step.tensor, or input.tensor")
    return Reference(step, tensor)


def _in_order(name: str, steps: dict[str, Step]) -> list[str]:
    for step in steps.values():
        unknown = sorted(step.needs - steps.keys())
        if unknown:
            raise SettingsError(
                f"pipeline {name}, step {step.name}: there is no step {unknown[0]!r}",
                hint=f"there are: {', '.join(steps)}",
            )
    try:
        graph = {step.name: sorted(step.needs) for step in steps.values()}
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise SettingsError(
            f"pipeline {name}: its steps wait for each other in a circle: {circle}"
        ) from error


def _placed(step: Step, before: Mapping[str, Step]) -> Step:
    """The step with its path, once all that it needs is known to fit."""
    crop = step.spec.crop
    if step.takes_picture:
        _check_picture(step)
        path = (*before[crop].path, crop) if crop else ()
        if crop and before[crop].manifest is not None and before[crop].finds != "boxes":
            finders = [name for name, other in before.items() if other.finds == "boxes"]
            raise SettingsError(
                f"crop = {crop!r}, but that step finds no boxes",
                hint=f"these do: {', '.join(finders) or 'none of those before it'}",
            )
    else:
        paths = {r: before[r.step].path for r in step.inputs.values() if r.step != INPUT}
        path = max(paths.values(), key=len, default=())
        for reference, other in paths.items():
            _check_path(f"{reference.step}.{reference.tensor}", other, path)
        tensors.check_inputs(step, before)
    if step.spec.top and step.manifest is not None and step.finds != "labels":
        raise SettingsError(f"top is about labels, {step.spec.model} does {step.manifest.task}")
    for condition in step.conditions:
        if condition.step != INPUT:
            _check_path(f"when = {condition.text!r}", before[condition.step].path, path)
            _check_condition(condition, before[condition.step])
    return msgspec.structs.replace(step, path=path)


def _check_picture(step: Step) -> None:
    if step.manifest is None:
        return
    image, known = step.manifest.image, tensors.names(step.manifest, "inputs")
    if image is None or known != [image.input]:
        more = "more than pictures" if image is not None else "no pictures"
        raise SettingsError(
            f"{step.spec.model} takes {more}",
            hint=f"say where its tensors come from, inputs = {{ … }}: {', '.join(known)}",
        )


def _check_path(what: str, path: tuple[str, ...], of_step: tuple[str, ...]) -> None:
    if path != of_step[: len(path)]:
        raise SettingsError(
            f"{what} is known once for {_each(path)}, this step runs once for {_each(of_step)}"
        )


def _each(path: tuple[str, ...]) -> str:
    return f"each box of {path[-1]}" if path else "the whole"


def _check_condition(condition: Condition, step: Step) -> None:
    if condition.fact in conditions.FACTS and step.finds in ("labels", "boxes"):
        conditions.check_types(condition)
    elif step.manifest is not None:
        tensors.check_output(step, condition.fact)


def _check_labels(
    step: Step, before: Mapping[str, Step], labels: Mapping[str, tuple[str, ...]]
) -> None:
    """Names of classes are easily misspelt, and would just never be found."""
    asked = [(step.spec.crop, label) for label in step.spec.labels]
    for condition in step.conditions:
        asked += [(condition.step, label) for label in condition.labels]
    for other, label in asked:
        known = labels.get(before[other].spec.model, ()) if other in before else ()
        if known and label not in known:
            near = difflib.get_close_matches(label, known) or known[:5]
            raise SettingsError(
                f"{before[other].spec.model} knows no {label!r}",
                hint=f"it knows {len(known)} classes, among them {', '.join(near)}",
            )


def _collect(step: Step, inputs: dict[str, TensorSpec]) -> None:
    """Add the pipeline's own tensors that a step takes."""
    for name, reference in step.inputs.items():
        if reference.step == INPUT and step.manifest is not None:
            if reference.tensor == PICTURE:
                raise SettingsError(f"input.{PICTURE} is the picture, and no tensor")
            own = tensors.own_input(step.manifest, name, reference.tensor)
            inputs[reference.tensor] = tensors.merged(inputs.get(reference.tensor), own)


def _check_flags(step: Step, inputs: Mapping[str, TensorSpec]) -> None:
    for condition in step.conditions:
        if condition.step == INPUT and condition.fact not in inputs:
            raise SettingsError(f"when = {condition.text!r}: no step takes input.{condition.fact}")


def _outputs(name: str, spec: PipelineSpec, steps: Mapping[str, Step]) -> tuple[Output, ...]:
    """What to answer with; what is known of a box brings the boxes along."""
    found: dict[Output, None] = {}
    for text in spec.output or tuple(spec.steps):
        step_name, _, tensor = text.partition(".")
        step = steps.get(step_name)
        if step is None:
            raise SettingsError(
                f"pipeline {name}: output names no step: {text!r}",
                hint=f"there are: {', '.join(spec.steps)}",
            )
        if tensor and step.manifest is not None:
            with _naming(name, step_name):
                tensors.check_output(step, tensor)
        found |= dict.fromkeys(map(Output, step.path))
        if tensor or step.finds or step.manifest is None:
            found[Output(step_name, tensor)] = None
        else:
            every = tensors.names(step.manifest, "outputs")
            found |= {Output(step_name, one): None for one in every}
    return tuple(found)

"""Whether tensors that pass from step to step fit, as far as bundles say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edge.core.errors import SettingsError
from edge.core.pipelines import INPUT
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edge.core.manifest import Manifest
    from edge.host.pipelines.graph import Step

Side = Literal["inputs", "outputs"]


def names(manifest: Manifest, side: Side) -> list[str]:
    """Tensors of a model, in its own order, of whatever variant."""
    return list(dict.fromkeys(spec.name for spec in _specs(manifest, side)))


def check_inputs(step: Step, before: Mapping[str, Step]) -> None:
    """Raise ``SettingsError`` unless a step gives its model just the tensors that it takes."""
    if step.manifest is None:
        return
    takes = names(step.manifest, "inputs")
    unknown = [name for name in step.inputs if name not in takes]
    missing = [name for name in takes if name not in step.inputs]
    if unknown or missing:
        wrong = f"has no input {unknown[0]!r}" if unknown else f"also takes {missing[0]!r}"
        raise SettingsError(f"{step.spec.model} {wrong}", hint=f"it takes {', '.join(takes)}")
    for name, reference in step.inputs.items():
        source = None if reference.step == INPUT else before[reference.step]
        if source is None or source.manifest is None:
            continue
        check_output(source, reference.tensor)
        given = [_row(spec, source) for spec in _of(source.manifest, "outputs", reference.tensor)]
        wanted = _of(step.manifest, "inputs", name)
        if not any(_fits(one, other) for one in given for other in wanted):
            raise SettingsError(
                f"{reference.step}.{reference.tensor} is {_texts(given)}, "
                f"{name!r} of {step.spec.model} takes {_texts(wanted)}"
            )


def check_output(step: Step, tensor: str) -> None:
    """Raise ``SettingsError`` unless the model of a step has such an output."""
    assert step.manifest is not None
    known = names(step.manifest, "outputs")
    if tensor not in known:
        raise SettingsError(
            f"{step.spec.model} has no output {tensor!r}", hint=f"it has {', '.join(known)}"
        )


def own_input(manifest: Manifest, name: str, own: str) -> TensorSpec:
    """What a pipeline's own tensor must look like to be a model's input ``name``."""
    spec = _of(manifest, "inputs", name)[0]
    return TensorSpec(own, spec.dtype, spec.shape)


def output_spec(manifest: Manifest, tensor: str, name: str) -> TensorSpec:
    """What a model says of an output, under another name."""
    spec = _of(manifest, "outputs", tensor)[0]
    return TensorSpec(name, spec.dtype, spec.shape)


def merged(one: TensorSpec | None, other: TensorSpec) -> TensorSpec:
    """What fits two models at once.

    Raises:
        SettingsError: Nothing does.
    """
    if one is None:
        return other
    if not _fits(one, other):
        raise SettingsError(
            f"input.{one.name} is {_texts([one])} to one step and {_texts([other])} to another"
        )
    pairs = zip(one.shape, other.shape, strict=True)
    return TensorSpec(one.name, one.dtype, tuple(b if isinstance(a, str) else a for a, b in pairs))


def _specs(manifest: Manifest, side: Side) -> Iterable[TensorSpec]:
    return (spec for variant in manifest.variants for spec in getattr(variant, side))


def _of(manifest: Manifest, side: Side, name: str) -> list[TensorSpec]:
    return [spec for spec in _specs(manifest, side) if spec.name == name]


def _row(spec: TensorSpec, step: Step) -> TensorSpec:
    """What comes of one picture, however many the model takes at once."""
    if not step.takes_picture or not spec.shape:
        return spec
    return TensorSpec(spec.name, spec.dtype, ("row", *spec.shape[1:]))


def _fits(one: TensorSpec, other: TensorSpec) -> bool:
    return (
        one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and all(
            a == b or isinstance(a, str) or isinstance(b, str)
            for a, b in zip(one.shape, other.shape, strict=True)
        )
    )


def _texts(specs: list[TensorSpec]) -> str:
    return " or ".join(dict.fromkeys(f"{spec.dtype} {spec.shape_text}" for spec in specs))

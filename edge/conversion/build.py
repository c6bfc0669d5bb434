"""Runs the converters of a plan; one that fails costs its own variant only."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.conversion.plan import Plan, Step
from edge.conversion.report import Refusal
from edge.core.contracts import ConvertRequest, Finding, Samples
from edge.core.errors import EdgeError, ModelError
from edge.core.manifest import Variant

if TYPE_CHECKING:
    from edge.core.tensor import Feeds

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with a stage's title, how much of it is done, and how much there is."""


class Built(msgspec.Struct, frozen=True):
    """Variants whose files lie in ``variants/<id>/``, what failed, and what the checks found."""

    variants: tuple[Variant, ...]
    refused: tuple[Refusal, ...]
    findings: tuple[Finding, ...]


class _Counted:
    """Samples that report how far a converter has gone through them."""

    def __init__(self, samples: Samples, advance: Callable[[int, int], None]) -> None:
        self._samples = samples
        self._advance = advance

    def __len__(self) -> int:
        return len(self._samples)

    def finish(self) -> None:
        self._advance(len(self), len(self))

    def __iter__(self) -> Iterator[Feeds]:
        for number, feeds in enumerate(self._samples, 1):
            self._advance(number, len(self._samples))
            yield feeds


def build(
    plan: Plan, model: Path, calibration: Samples | None, folder: Path, progress: Progress
) -> Built:
    """Convert ``model`` once per step of ``plan`` into ``folder/variants/<id>/``.

    Raises:
        EdgeError: The first reason, when not one variant could be made.
    """
    variants: list[Variant] = []
    refused: list[Refusal] = list(plan.refused)
    findings: dict[str, list[Finding]] = {}
    errors: list[EdgeError] = []
    for number, step in enumerate(plan.steps):
        progress("Converting", number, len(plan.steps))
        converter = step.converter
        if converter.name not in findings:
            findings[converter.name] = converter.check(model, plan.profile)
        samples = _watched(step, calibration, progress)
        request = ConvertRequest(
            model, plan.profile, step.precision, calibration=samples, options=step.recipe.options
        )
        into = folder / "variants" / step.id
        into.mkdir(parents=True)
        try:
            refuse(findings[converter.name])
            variants.append(msgspec.structs.replace(converter.convert(request, into), id=step.id))
            if samples is not None:  # a quantizer may stop before the last one
                samples.finish()
        except EdgeError as error:
            log.info("%s was not made", step.id, exc_info=True)
            shutil.rmtree(into)
            refused.append(Refusal(step.id, str(error)))
            errors.append(error)
    progress("Converting", len(plan.steps), len(plan.steps))
    if not variants:
        raise errors[0]
    everything = tuple(finding for found in findings.values() for finding in found)
    return Built(tuple(variants), tuple(refused), everything)


def _watched(step: Step, calibration: Samples | None, progress: Progress) -> _Counted | None:
    if not step.recipe.needs_samples or calibration is None:
        return None
    title = f"Calibrating {step.id}"
    return _Counted(calibration, lambda done, total: progress(title, done, total))


def refuse(findings: Iterable[Finding]) -> None:
    """Raise ``ModelError`` for the first finding that is an error."""
    for finding in findings:
        if finding.severity == "error":
            raise ModelError(finding.message, hint=finding.hint)

"""Measures the source and its variants on the same samples: accuracy, agreement, latency."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from edge.conversion.latency import measure_latency
from edge.core.manifest import Latency, Metric, Variant

if TYPE_CHECKING:
    from edge.conversion.build import Progress
    from edge.conversion.datasets import Example
    from edge.conversion.opening import Opened
    from edge.conversion.sampling import Sampling
    from edge.core.contracts import Session
    from edge.core.profile import DeviceProfile
    from edge.core.spec import OutputSpec
    from edge.core.tensor import Array, Feeds

STAGE = "Measuring accuracy"
BLOCK = 8
"""Examples per turn of a session: the threads of the engine before still spin for a while."""


class Scores(msgspec.Struct, frozen=True):
    """What one model reached: the task's metric, where labels allow, and agreement in 0..1."""

    metric: Metric | None
    agreement: float | None


class Measurements(msgspec.Struct, frozen=True):
    """By variant id; the source's own stand under ``source``."""

    source: Scores
    scores: dict[str, Scores]
    source_latency: Latency
    latency: dict[str, Latency]


def measure(
    opened: Opened, sampling: Sampling, output: OutputSpec, progress: Progress
) -> Measurements:
    """Run all sessions over the samples once, side by side, then time them alternating."""
    sessions: dict[str, Session] = {"source": opened.reference, **opened.sessions}
    scores = _scores(sessions, sampling, output, progress)
    first: Feeds = next(iter(sampling.measured)).feeds
    progress("Measuring latency", 0, 1)
    latency = measure_latency(sessions, first)
    progress("Measuring latency", 1, 1)
    return Measurements(scores.pop("source"), scores, latency.pop("source"), latency)


def _scores(
    sessions: Mapping[str, Session], sampling: Sampling, output: OutputSpec, progress: Progress
) -> dict[str, Scores]:
    from edge.vision import TopAccuracy, agreement_for

    right = {name: TopAccuracy() for name in sessions}
    same = {name: agreement_for(sampling.task) for name in sessions}
    done = 0
    examples = iter(sampling.measured)
    while block := list(islice(examples, BLOCK)):
        expected: list[Any] = []
        for name, session in sessions.items():  # the source comes first
            given = [_answer(session.run(e.feeds), e, sampling, output) for e in block]
            expected = expected or given
            for example, reference, answer in zip(block, expected, given, strict=True):
                same[name].add(reference, answer)
                if sampling.task == "classification" and example.label is not None:
                    right[name].add(answer, example.label)
        done += len(block)
        progress(STAGE, done, len(sampling.measured))
    return {name: Scores(_metric(right[name].top1), same[name].value) for name in sessions}


def _metric(top1: float | None) -> Metric | None:
    return None if top1 is None else Metric("top1", round(top1, 4))


def _answer(
    outputs: dict[str, Array], example: Example, sampling: Sampling, output: OutputSpec
) -> Any:
    """What the task's measures compare: a prediction, or the outputs themselves."""
    from edge.vision import decode

    if sampling.task == "tensors":
        return outputs
    return decode(outputs, output, geometry=example.geometry, labels=sampling.labels)


def with_measurements(
    variant: Variant, measured: Measurements, measured_on: str, notes: Mapping[str, str]
) -> Variant:
    """``variant`` with what was measured of it, or with the reason why nothing was."""
    scores = measured.scores.get(variant.id)
    note = notes.get(variant.id)
    all_notes = (*variant.notes, note) if note else variant.notes
    if scores is None:
        return msgspec.structs.replace(variant, notes=all_notes)
    return msgspec.structs.replace(
        variant,
        metric=scores.metric,
        agreement=scores.agreement,
        latency_ms=measured.latency[variant.id],
        measured_on=measured_on,
        notes=all_notes,
    )


def is_latency_valid(profile: DeviceProfile) -> bool:
    """Whether latency taken on this machine tells which variant is the faster one on the device."""
    is_cpu = all(
        str(options.get("device", "cpu")).lower() == "cpu"
        for options in profile.runtimes.options.values()
    )
    return is_cpu and profile.device.arch == platform.machine()

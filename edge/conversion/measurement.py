"""Measures a variant against the source on the same samples: accuracy, agreement, closeness."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.conversion.accuracy import Accuracy, output_to_measure
from edge.conversion.disagreements import Disagreements
from edge.conversion.noise import CAP_DB, NoiseSums
from edge.conversion.report import Disagreement
from edge.conversion.samples import check_finite
from edge.core.errors import InputError
from edge.core.manifest import Metric
from edge.core.spec import OutputSpec
from edge.host.health.looks import Looker
from edge.host.health.reference import Distributions, Gathering

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.conversion.metrics import UserMetric
    from edge.conversion.samples import Dataset, Example
    from edge.conversion.sampling import Sampling
    from edge.core.contracts import Session
    from edge.core.profile import DeviceProfile
    from edge.core.spec import ModelSpec
    from edge.core.tensor import Array, Feeds

BLOCK = 8
"""Examples per turn of a session: the threads of the engine before still spin for a while."""

KEPT_BYTES = 2**28
"""Answers of the source are kept for the next variant up to here, else they are made again."""


class Scores(msgspec.Struct, frozen=True):
    """What one model reached: the task's metric, where labels allow, and agreement in 0..1.

    ``note`` says why a model that failed has neither. ``distributions`` are of what went in and
    came out, where that was real.
    """

    metric: Metric | None
    agreement: float | None
    disagreements: tuple[Disagreement, ...] = ()
    note: str = ""
    distributions: Distributions = {}


class Reference:
    """The source's answers to the samples that are measured on."""

    def __init__(self, session: Session, sampling: Sampling, spec: ModelSpec) -> None:
        output = spec.output or OutputSpec()
        self.session = session
        self.sampling = sampling
        self.looker = Looker(spec.task, spec.image, output)
        self._output = output_to_measure(output, sampling.measured)
        self._threshold = output.score_threshold
        self._kept: list[list[Any]] | None = []
        self._room = KEPT_BYTES

    def __iter__(self) -> Iterator[tuple[list[Example], list[Any]]]:
        """Blocks of examples, with the source's answer to each."""
        kept, known = self._kept, bool(self._kept)
        examples = iter(self.sampling.measured)
        number = 0
        while block := list(islice(examples, BLOCK)):
            if known and kept is not None:
                yield block, kept[number]
            else:
                answers = [self._own_answer(example) for example in block]
                self._keep(answers)
                yield block, answers
            number += 1

    def answer(self, outputs: dict[str, Array], example: Example) -> Any:
        """What the task's measures compare: a prediction, or the outputs themselves."""
        from edge.vision import decode

        if self.sampling.task == "tensors":
            return outputs
        return decode(outputs, self._output, geometry=example.geometry, labels=self.sampling.labels)

    def shown(self, answer: Any) -> Any:
        """Of ``answer`` what an application would see: no boxes below the threshold."""
        if self.sampling.task != "detection":
            return answer
        return tuple(box for box in answer if box.score > self._threshold)

    def _own_answer(self, example: Example) -> Any:
        outputs = self.session.run(example.feeds)
        try:
            check_finite(outputs)
        except InputError as error:
            raise InputError(
                f"the source model fails on {example.source}: {error}",
                hint="take another checkpoint, or check what the pictures or tensors are scaled to",
            ) from error
        return self.answer(outputs, example)

    def _keep(self, answers: list[Any]) -> None:
        if self._kept is None:
            return
        if self.sampling.task == "tensors":
            self._room -= sum(a.nbytes for answer in answers for a in answer.values())
        self._kept.append(answers)
        if self._room < 0:
            self._kept = None


def measure(session: Session, reference: Reference, advance: Callable[[int, int], None]) -> Scores:
    """Run ``session`` over the samples once, and compare its answers with the source's."""
    from edge.vision import agreement_for

    sampling = reference.sampling
    own = _OwnMetric(sampling.metric) if sampling.metric else None
    right, same = Accuracy(sampling.task), agreement_for(sampling.task)
    apart = Disagreements(sampling.task)
    seen, looker = Gathering(), reference.looker
    done, failure = 0, ""
    for block, expected in reference:
        given = [session.run(example.feeds) for example in block]
        for example, want, outputs in zip(block, expected, given, strict=True):
            failure = failure or _failure(outputs, example)
            if failure:
                continue  # to the end, as the source's answers are kept for the next variant
            got = reference.answer(outputs, example)
            if sampling.measured.is_real:
                seen.add(looker.look(looker.take(example.feeds, outputs)))
            same.add(reference.shown(want), reference.shown(got))
            apart.add(example, reference.shown(want), reference.shown(got))
            right.add(example, got)
            if own is not None:
                own.add(example, want, got)
        done += len(block)
        advance(done, len(sampling.measured))
    if failure:
        return Scores(None if own else right.failed(sampling.measured), 0.0, note=failure)
    metric = own.value if own else right.metric
    return Scores(metric, same.value, apart.found, distributions=seen.distributions())


def _failure(outputs: Feeds, example: Example) -> str:
    try:
        check_finite(outputs)
    except InputError as error:
        return f"fails on {Path(example.source).name}: {error}"
    return ""


class _OwnMetric:
    """Gathers what a user's metric wants to see."""

    def __init__(self, metric: UserMetric) -> None:
        self._metric = metric
        self._outputs: list[Feeds] = []
        self._references: list[Feeds] = []
        self._feeds: list[Feeds] = []
        self._labels: list[Any] = []

    def add(self, example: Example, reference: Feeds, outputs: Feeds) -> None:
        self._outputs.append(outputs)
        self._references.append(reference)
        self._feeds.append(example.feeds)
        self._labels.append(example.label)

    @property
    def value(self) -> Metric:
        return self._metric.value(self._outputs, self._references, self._feeds, self._labels)


def sqnr_db(reference: Session, session: Session, samples: Dataset) -> float:
    """How near the outputs are to the reference's: signal over noise, the mean of all outputs."""
    sums: dict[str, NoiseSums] = {}
    for feeds in samples.samples:
        expected, got = reference.run(feeds), session.run(feeds)
        for name, want in expected.items():
            if want.dtype.kind == "f":
                sums.setdefault(name, NoiseSums()).add(want, got[name])
    # Outputs of another shape, such as boxes after NMS, are all noise.
    values = [each.sqnr_db if each.is_comparable else 0.0 for each in sums.values()]
    return sum(values) / len(values) if values else CAP_DB


def is_latency_valid(profile: DeviceProfile) -> bool:
    """Whether latency taken on this machine tells which variant is the faster one on the device."""
    is_cpu = all(
        str(options.get("device", "cpu")).lower() == "cpu"
        for options in profile.runtimes.options.values()
    )
    return is_cpu and profile.device.arch == platform.machine()

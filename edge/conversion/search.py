"""Makes the variants of a plan, repairs those that lose too much, and times what is left."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from edge.conversion.gate import Bound
from edge.conversion.plan import Plan
from edge.conversion.repair import Attempt, Ladder, Limits, closeness
from edge.conversion.report import Refusal, Trial
from edge.core.contracts import Finding
from edge.core.errors import EdgeError, ModelError

if TYPE_CHECKING:
    from edge.conversion.workbench import Progress, Workbench

log = logging.getLogger(__name__)


class Found(msgspec.Struct, frozen=True):
    """Attempts that are worth timing, what was refused, and the trials of the ladder."""

    attempts: tuple[Attempt, ...]
    refused: tuple[Refusal, ...]
    trials: tuple[Trial, ...]
    findings: tuple[Finding, ...]


def search(plan: Plan, bench: Workbench, bound: Bound, limits: Limits, progress: Progress) -> Found:
    """Make and judge every variant of ``plan``; climb the ladder where one loses too much.

    Raises:
        EdgeError: The first reason, when not one variant could be made.
    """
    ladder = Ladder(bench, bound.points, bound.loss, limits, progress)
    refused = list(plan.refused)
    trials: list[Trial] = []
    made, errors = _make_all(plan, bench, ladder, refused, progress)
    if not made:
        raise errors[0]
    kept: list[Attempt] = []
    for family in _families(made):
        climbed = []
        if _can_be_repaired(family) and not any(ladder.passes(each) for each in family):
            for attempt in ladder.climb(family):
                climbed.append(attempt)
                trials.append(_trial(attempt, ladder))
            if ladder.stopped:
                refused.append(Refusal(f"more of {family[0].step.id}", ladder.stopped))
                ladder.stopped = ""
        best, others = _best([*family, *climbed], ladder)
        refused += [
            Refusal(each.variant.id, f"{bound.lost(each.loss)}; {best.variant.id} is kept")
            for each in others
            if not each.what
        ]
        kept += [best, *_faster(best, bench, ladder)]
    findings = [
        f
        for c in {s.converter.name: s.converter for s in plan.steps}.values()
        for f in bench.check(c)
    ]
    return Found(tuple(kept), tuple(refused), tuple(trials), tuple(findings))


def _make_all(
    plan: Plan, bench: Workbench, ladder: Ladder, refused: list[Refusal], progress: Progress
) -> tuple[list[Attempt], list[EdgeError]]:
    made: list[Attempt] = []
    errors: list[EdgeError] = []
    for number, step in enumerate(plan.steps):
        progress("Converting", number, len(plan.steps))
        try:
            refuse(bench.check(step.converter))
            made.append(ladder.attempt(step))
        except EdgeError as error:
            log.info("%s was not made", step.id, exc_info=True)
            refused.append(Refusal(step.id, str(error)))
            errors.append(error)
    progress("Converting", len(plan.steps), len(plan.steps))
    return made, errors


def _families(made: Sequence[Attempt]) -> list[list[Attempt]]:
    """Attempts that differ in how they were calibrated only, so that one of them is enough."""
    families: dict[tuple[str, str, str], list[Attempt]] = {}
    for attempt in made:
        step = attempt.step
        kind = "" if step.recipe.needs_samples else step.title
        families.setdefault((step.converter.name, step.precision, kind), []).append(attempt)
    return list(families.values())


def _can_be_repaired(family: Sequence[Attempt]) -> bool:
    return family[0].step.recipe.needs_samples and family[0].loss is not None


def _best(family: Sequence[Attempt], ladder: Ladder) -> tuple[Attempt, list[Attempt]]:
    """Of those that pass, the one nearest to the source on the tuning samples, as the evaluation
    only says who passes; of repairs the last, as they leave ever less in float. Else what loses
    least."""

    def loss(attempt: Attempt) -> tuple[bool, float]:
        return attempt.loss is None, attempt.loss or 0.0

    passing = [each for each in family if ladder.passes(each)]
    unaided = [each for each in passing if not each.what]
    best = max(unaided, key=closeness) if unaided else min(passing[-1:] or family, key=loss)
    return best, [each for each in family if each is not best]


def _faster(best: Attempt, bench: Workbench, ladder: Ladder) -> list[Attempt]:
    """The same files with what they leave in float computed in fewer bits."""
    if not best.step.recipe.needs_samples or not ladder.passes(best):
        return []
    return [
        ladder.judge(best.step, bench.copy(variant, best.variant))
        for variant in best.step.converter.faster(best.variant, bench.profile)
    ]


def _trial(attempt: Attempt, ladder: Ladder) -> Trial:
    return Trial(
        id=attempt.variant.id,
        what=attempt.what,
        loss=None if attempt.loss is None else round(attempt.loss, 3),
        sqnr_db=None if attempt.judged.sqnr_db is None else round(attempt.judged.sqnr_db, 2),
        passed=ladder.passes(attempt),
        seconds=attempt.seconds,
    )


def refuse(findings: Iterable[Finding]) -> None:
    """Raise ``ModelError`` for the first finding that is an error."""
    for finding in findings:
        if finding.severity == "error":
            raise ModelError(finding.message, hint=finding.hint)

"""The repair ladder: what to try when a quantized variant loses too much, mildest first."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from edge.conversion.plan import Step
from edge.conversion.workbench import Judged, Workbench
from edge.core.contracts import Recipe, Sensitivity
from edge.core.errors import EdgeError
from edge.core.manifest import Variant

if TYPE_CHECKING:
    from edge.conversion.workbench import Progress

log = logging.getLogger(__name__)

TRIALS = 12
"""Variants that the ladder makes of one precision for one engine, at most."""

MINUTES = 20.0
"""For all ladders of a conversion together; the step that is under way is finished."""

GAINS_DB = (2, 4, 6, 8, 10, 13, 16, 20, 25)
"""Steps of less noise, as the sensitivities predict it, that operators left in float can buy."""

MOST_IN_FLOAT = 0.8
"""Share of the operations beyond which INT8 is no longer worth its losses."""


class Attempt(msgspec.Struct, frozen=True):
    """One variant that was made and judged; ``loss`` in points, None when nothing was measured."""

    step: Step
    variant: Variant
    judged: Judged
    loss: float | None
    seconds: float
    what: str = ""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the ladder: ``trials`` for one engine and precision, ``minutes`` for all."""

    trials: int = TRIALS
    minutes: float = MINUTES


class Ladder:
    """Climbs from attempts that lose too much to one that does not, if there is one.

    Nothing here chooses on the measured samples among variants that pass: they only say whether
    one passes. What to build on is chosen by closeness to the source on the tuning samples.
    """

    def __init__(
        self,
        bench: Workbench,
        bound: float,
        loss_of: Callable[[Judged], float | None],
        limits: Limits,
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._bound = bound
        self._loss_of = loss_of
        self._limits = limits
        self._progress = progress
        self._end = time.monotonic() + 60 * limits.minutes
        self.stopped = ""

    def passes(self, attempt: Attempt) -> bool:
        return attempt.loss is not None and attempt.loss <= self._bound

    def attempt(self, step: Step, what: str = "") -> Attempt:
        """Make and judge one variant.

        Raises:
            EdgeError: It can not be made.
        """
        start = time.monotonic()
        return self.judge(step, self._bench.make(step, self._progress), what, start)

    def judge(
        self, step: Step, variant: Variant, what: str = "", start: float | None = None
    ) -> Attempt:
        """Judge a variant that was made since ``start``, by ``time.monotonic()``."""
        start = time.monotonic() if start is None else start
        judged = self._bench.judge(variant, self._progress)
        seconds = round(time.monotonic() - start, 2)
        return Attempt(step, variant, judged, self._loss_of(judged), seconds, what)

    def climb(self, first: Sequence[Attempt]) -> Iterator[Attempt]:
        """Attempts at what ``first``, all of one engine and precision, did not reach."""
        done = list(first)
        trials = self._trials(done)
        for number, attempt in enumerate(trials, 1):
            done.append(attempt)
            yield attempt
            if number == self._limits.trials:
                self.stopped = f"the limit of {self._limits.trials} trials was reached"
                return
            if time.monotonic() > self._end:
                self.stopped = f"the limit of {self._limits.minutes:g} minutes was reached"
                return

    def _trials(self, done: list[Attempt]) -> Iterator[Attempt]:
        step = done[0].step
        for title, recipe in step.converter.recipes(step.precision).items():
            if recipe.is_repair:
                tried = self._try(Step(step.converter, step.precision, title, recipe), recipe.what)
                if tried is not None:
                    yield tried
                    if self.passes(tried):
                        return
        yield from self._leave_in_float(max(done, key=closeness))

    def _leave_in_float(self, base: Attempt) -> Iterator[Attempt]:
        """Search for the fewest operators in float that suffice, by halving."""
        name = base.step.id
        self._progress(f"Ranking operators of {name}", 0, 1)
        try:
            found = self._bench.sensitivities(base.step, base.variant)
        except EdgeError as error:
            self.stopped = str(error)
            return
        finally:
            self._progress(f"Ranking operators of {name}", 1, 1)
        rungs = exclusions(found)
        low, high = 0, len(rungs)  # below low too little was left in float, from high on it passes
        while low < high:
            middle = (low + high) // 2
            tried = self._try(*self._mixed(base, rungs[middle]))
            if tried is None:
                return
            yield tried
            if self.passes(tried):
                high = middle
            else:
                low = middle + 1

    def _mixed(self, base: Attempt, rung: Exclusion) -> tuple[Step, str]:
        step = base.step
        recipe: Recipe = step.converter.excluding(base.variant, step.recipe, rung.nodes)
        title = "-".join(filter(None, (step.title, f"mixed{len(rung.nodes)}")))
        what = f"{len(rung.nodes)} operators in float ({100 * rung.share:.0f} % of the work)"
        return Step(step.converter, step.precision, title, recipe), what

    def _try(self, step: Step, what: str) -> Attempt | None:
        try:
            return self.attempt(step, what)
        except EdgeError as error:
            log.info("%s was not made: %s", step.id, error)
            return None


class Exclusion(msgspec.Struct, frozen=True):
    """Operators to leave in float, and their share of all operations."""

    nodes: tuple[str, ...]
    share: float


def exclusions(sensitivities: Sequence[Sensitivity]) -> list[Exclusion]:
    """Growing sets of operators, those first that bring in most noise for what they compute."""
    total_cost = sum(each.cost for each in sensitivities) or 1.0
    noise = total = sum(each.noise for each in sensitivities)
    rungs: list[Exclusion] = []
    nodes: list[str] = []
    cost = 0.0
    gains = iter(GAINS_DB)
    wanted = next(gains, None)
    for each in sorted(sensitivities, key=lambda s: s.noise / max(s.cost, 1.0), reverse=True):
        nodes += each.nodes
        cost += each.cost
        noise -= each.noise
        gain = 10 * math.log10(total / noise) if noise > 1e-6 * total else 60.0
        if wanted is None or cost > MOST_IN_FLOAT * total_cost:
            break
        if gain >= wanted:
            rungs.append(Exclusion(tuple(nodes), cost / total_cost))
            while wanted is not None and wanted <= gain:
                wanted = next(gains, None)
    return rungs


def closeness(attempt: Attempt) -> float:
    """How near the outputs are to the source's on the tuning samples, in dB."""
    return -math.inf if attempt.judged.sqnr_db is None else attempt.judged.sqnr_db

"""The ladder tries the mild repairs first, and leaves as little in float as will do."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from edge.conversion.gate import bound_for
from edge.conversion.measurement import Scores
from edge.conversion.plan import Step
from edge.conversion.repair import MOST_IN_FLOAT, Attempt, Ladder, Limits, exclusions
from edge.conversion.search import _best
from edge.conversion.workbench import Judged
from edge.core.contracts import Recipe, Sensitivity
from edge.core.errors import ModelError
from edge.core.manifest import Metric, Variant


class _Converter:
    name = engine = "fake"

    def recipes(self, precision):  # type: ignore[no-untyped-def]
        return {
            "": Recipe(needs_samples=True),
            "wide": Recipe({"ranges": 1}, needs_samples=True, is_repair=True, what="ranges"),
        }

    def excluding(self, variant, recipe, nodes):  # type: ignore[no-untyped-def]
        return msgspec.structs.replace(recipe, options={**recipe.options, "exclude": nodes})


NOISE = {f"op{index}": 2.0**-index for index in range(40)}


class _Bench:
    """Loses one point for every part of the noise of 40 operators that is not left in float."""

    def __init__(self, points: float, refused: str = "") -> None:
        self.points = points
        self.refused = refused
        self.made: list[str] = []

    def make(self, step, progress):  # type: ignore[no-untyped-def]
        if step.id == self.refused:
            raise ModelError("it can not be done")
        self.made.append(step.id)
        self._exclude = step.recipe.options.get("exclude", ())
        return Variant(step.id, "fake", step.precision, (), (), ())

    def judge(self, variant, progress):  # type: ignore[no-untyped-def]
        left = sum(v for name, v in NOISE.items() if name not in self._exclude)
        loss = self.points * left / sum(NOISE.values())
        return Judged(Scores(Metric("top1", 90.0 - loss), 1.0), sqnr_db=-loss)

    def sensitivities(self, step, variant):  # type: ignore[no-untyped-def]
        return tuple(Sensitivity((name,), noise, 1.0) for name, noise in NOISE.items())


def _climb(bench, bound=1.0, limits=Limits()):  # type: ignore[no-untyped-def]  # noqa: B008
    allowed = bound_for(Metric("top1", 90.0), bound)
    ladder = Ladder(bench, allowed.points, allowed.loss, limits, lambda *_: None)
    first = ladder.attempt(Step(_Converter(), "int8", "", Recipe(needs_samples=True)))
    return ladder, list(ladder.climb([first]))


def test_other_ranges_come_before_operators_in_float():
    _, (first, *others) = _climb(_Bench(20.0))
    assert first.what == "ranges"
    assert others
    assert all("operators in float" in attempt.what for attempt in others)


def test_the_last_that_passes_leaves_the_least_in_float():
    bench = _Bench(20.0)
    ladder, attempts = _climb(bench)
    passing = [a for a in attempts if ladder.passes(a)]
    sizes = [len(a.step.recipe.options["exclude"]) for a in passing]
    assert sizes == sorted(sizes, reverse=True)
    rungs = [len(rung.nodes) for rung in exclusions(bench.sensitivities(None, None))]
    losing = [size for size in rungs if size < sizes[-1]]
    left = 20.0 * sum(list(NOISE.values())[losing[-1] :]) / sum(NOISE.values())
    assert left > 1.0  # one rung less would not have done
    assert passing[-1].loss <= 1.0


def test_it_ends_when_nothing_helps():
    ladder, attempts = _climb(_Bench(1e9), bound=0.0)
    assert attempts
    assert not any(ladder.passes(attempt) for attempt in attempts)
    assert ladder.stopped == ""


@pytest.mark.parametrize(
    ("limits", "said"),
    [(Limits(trials=2), "limit of 2 trials"), (Limits(minutes=0.0), "limit of 0 minutes")],
)
def test_trials_and_time_are_bounded(limits, said):
    ladder, attempts = _climb(_Bench(1e9), limits=limits)
    assert len(attempts) <= 2
    assert said in ladder.stopped


def test_a_repair_that_can_not_be_made_is_passed_over():
    ladder, attempts = _climb(_Bench(20.0, refused="fake-int8-wide"))
    assert any(ladder.passes(attempt) for attempt in attempts)
    assert "fake-int8-wide" not in [attempt.variant.id for attempt in attempts]


def test_cheap_noisy_operators_are_left_in_float_first():
    noisy = Sensitivity(("noisy",), 1.0, 10.0)
    cheap = Sensitivity(("cheap",), 0.9, 1.0)
    fine = Sensitivity(("fine",), 1e-4, 100.0)
    sets = exclusions([fine, noisy, cheap])
    assert [rung.nodes for rung in sets] == [("cheap",), ("cheap", "noisy")]
    assert sets[-1].share == pytest.approx(11 / 111)


def test_no_set_leaves_nearly_everything_in_float():
    even = [Sensitivity((f"op{index}",), 1.0, 1.0) for index in range(50)]
    assert max(rung.share for rung in exclusions(even)) <= MOST_IN_FLOAT
    assert exclusions([]) == []


def test_of_variants_that_pass_the_tuning_samples_choose_not_the_evaluation() -> None:
    """The evaluation would flatter what it chose."""

    def attempt(loss: float, sqnr_db: float, what: str = "") -> Attempt:
        return Attempt(None, None, Judged(sqnr_db=sqnr_db), loss, 0.0, what)  # type: ignore[arg-type]

    ladder = SimpleNamespace(passes=lambda each: each.loss <= 0.5)
    lucky, near, far = attempt(-0.4, 20.0), attempt(0.3, 30.0), attempt(0.9, 40.0)
    assert _best([lucky, near, far], ladder)[0] is near
    repaired = [attempt(0.1, 50.0, "much in float"), attempt(0.4, 45.0, "less in float")]
    assert _best([far, *repaired], ladder)[0] is repaired[-1]
    assert _best([lucky, *repaired], ladder)[0] is lucky
    assert _best([far, attempt(0.7, 1.0)], ladder)[0].loss == 0.7

from __future__ import annotations

import random

import pytest

from edge.vision import Box
from edge.vision.average_precision import AveragePrecision, TrueBox

Scene = tuple[list[Box], list[TrueBox]]

PYCOCOTOOLS = {
    (0, 1, 0.0): 13.311967980501052,
    (1, 1, 0.0): 10.835093698842451,
    (2, 3, 0.0): 16.222204052981382,
    (3, 3, 0.2): 13.085324696434666,
    (4, 8, 0.3): 21.59480127139273,
    (5, 1, 0.5): 10.33581712578445,
}
"""(seed, classes, share of crowds) -> AP of ``scenes`` in percent, by pycocotools 2.0.11: COCOeval
of ``bbox`` with its defaults; boxes as x, y, width, height; classes counted from 1."""


def scenes(seed: int, classes: int, crowds: float) -> list[Scene]:
    """Pictures with more objects than boxes and the reverse, equal scores, and crowds."""
    source = random.Random(seed)
    return [scene(source, classes, crowds) for _ in range(12)]


def scene(source: random.Random, classes: int, crowds: float) -> Scene:
    truth, found = [], []
    for _ in range(source.randrange(9)):
        x, y = source.randrange(200), source.randrange(200)
        width, height = source.randrange(8, 80), source.randrange(8, 80)
        index, is_crowd = source.randrange(classes), source.random() < crowds
        truth.append(TrueBox(x, y, x + width, y + height, index, is_crowd))
        for _ in range(source.choice((0, 1, 1, 1, 2, 60))):
            left, top, right, bottom = (source.randint(-4, 4) for _ in range(4))
            corners = (x + left, y + top, x + width + right, y + height + bottom)
            said = index if source.random() < 0.9 else source.randrange(classes)
            found.append(Box(*corners, said, "", source.randrange(1, 50) / 50))
    return found, truth


def average_precision(pictures: list[Scene]) -> float | None:
    measure = AveragePrecision()
    for found, truth in pictures:
        measure.add(found, truth)
    return measure.value


@pytest.mark.parametrize("case", PYCOCOTOOLS)
def test_values_are_those_of_pycocotools(case: tuple[int, int, float]) -> None:
    assert average_precision(scenes(*case)) == pytest.approx(PYCOCOTOOLS[case], abs=1e-9)


OBJECT = TrueBox(0, 0, 10, 10, 0)


def box(score: float, *, width: float = 10.0, index: int = 0, left: float = 0.0) -> Box:
    return Box(left, 0.0, left + width, 10.0, index, "", score)


def test_box_that_overlaps_by_three_quarters_is_right_at_six_of_ten_thresholds() -> None:
    assert average_precision([([box(0.9, width=7.6)], [OBJECT])]) == pytest.approx(60.0)


def test_wrong_box_counts_only_before_the_right_one() -> None:
    right, wrong = box(0.5), box(0.9, left=50.0)
    assert average_precision([([right, wrong], [OBJECT])]) == pytest.approx(50.0)
    later = box(0.1, left=50.0)
    assert average_precision([([right, later], [OBJECT])]) == pytest.approx(100.0)


def test_object_that_is_missed_costs_the_recalls_that_are_never_reached() -> None:
    other = TrueBox(50, 0, 60, 10, 0)
    # Recall ends at 0.5: 51 of the 101 points have a precision of 1.
    assert average_precision([([box(0.9)], [OBJECT, other])]) == pytest.approx(100 * 51 / 101)


def test_second_box_on_one_object_is_wrong() -> None:
    other = TrueBox(50, 0, 60, 10, 0)
    found = [box(0.9), box(0.8), box(0.7, left=50.0)]
    # Up to a recall of one half all is right, then two of three.
    expected = 100 * (51 + 50 * 2 / 3) / 101
    assert average_precision([(found, [OBJECT, other])]) == pytest.approx(expected)


def test_classes_weigh_the_same_and_those_without_objects_nothing() -> None:
    other = TrueBox(0, 0, 10, 10, 1)
    found = [box(0.9), box(0.9, index=2)]
    assert average_precision([(found, [OBJECT, OBJECT, other])]) == pytest.approx(50 * 51 / 101)


def test_boxes_in_a_crowd_are_neither_right_nor_wrong() -> None:
    crowd = TrueBox(40, 0, 140, 10, 0, is_crowd=True)
    inside = [box(0.9, left=left) for left in (50.0, 60.0, 70.0)]
    assert average_precision([([box(0.5), *inside], [OBJECT, crowd])]) == pytest.approx(100.0)
    assert average_precision([(inside, [crowd])]) is None


def test_without_objects_there_is_no_value() -> None:
    assert average_precision([([box(0.9)], [])]) is None
    assert average_precision([]) is None

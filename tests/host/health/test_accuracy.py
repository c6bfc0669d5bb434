"""Labels that come back for answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.core.errors import InputError, NotFoundError, UnsupportedError
from edge.core.manifest import Manifest, Metric
from edge.core.spec import OutputSpec
from edge.host.health.accuracy import FEWEST, MAX_ID, AccuracyWatch, TrueBox, wilson
from edge.vision import Geometry

NAMES = ("cat", "dog", "bird")
EXPECTED = Metric("top1", 90.0)


def watch(
    task: Any = "classification", most: int = 1000, output: OutputSpec | None = None
) -> AccuracyWatch:
    manifest = Manifest(1, "m", "1", task, "host", "0" * 64, (), output=output)
    return AccuracyWatch(manifest, NAMES, most, 2.0)


def scores(index: int) -> dict[str, np.ndarray]:
    return {"y": np.eye(1, 3, index, dtype=np.float32) * 9}


def answer(
    made: AccuracyWatch, request_id: str, index: int, expected: Metric | None = EXPECTED
) -> None:
    made.remember(request_id, scores(index), expected, None)


def feed(made: AccuracyWatch, count: int, right_percent: int) -> None:
    for number in range(count):
        is_right = (number + 1) * right_percent // 100 > number * right_percent // 100
        answer(made, f"{number}", 1)
        made.label(f"{number}", 1 if is_right else 0)


def test_a_right_answer_counts_by_index_and_by_name() -> None:
    made = watch()
    for request_id, truth in (("a", 1), ("b", "dog"), ("c", np.int64(1)), ("d", "cat")):
        answer(made, request_id, 1)
        made.label(request_id, truth)
    status = made.status()
    assert (status.metric, status.count, status.value) == ("top1", 4, 75.0)
    assert status.low is not None
    assert status.high is not None
    assert 0 < status.low < 75 < status.high < 100


def test_accuracy_as_measured_is_normal() -> None:
    made = watch()
    feed(made, FEWEST - 1, 90)
    assert made.status().state == "gathering"
    feed(made, 500, 90)
    assert made.status().state == "normal"


def test_accuracy_is_low_once_chance_can_not_be_why_and_back_once_it_is_reached() -> None:
    made = watch(most=200)
    feed(made, 200, 70)
    assert made.status().state == "low"
    assert "top1 of 200 labels is 70.0 %" in made.status().why
    feed(made, 100, 90)
    assert made.status().state == "low"
    feed(made, 200, 90)
    assert made.status().state == "normal"


def test_a_bit_less_is_not_low() -> None:
    made = watch()
    feed(made, 200, 85)
    assert made.status().state == "normal"


def test_without_a_measured_accuracy_figures_are_told_and_nothing_else() -> None:
    made = watch()
    for number in range(60):
        answer(made, f"{number}", 1, None)
        made.label(f"{number}", 0)
    status = made.status()
    assert (status.state, status.value, status.expected) == ("no-reference", 0.0, None)
    assert "no top1" in status.reason


def test_another_variants_answers_are_not_mixed_in() -> None:
    made = watch()
    feed(made, 100, 50)
    answer(made, "x", 1, Metric("top1", 40.0))
    assert made.status().count == 0


@pytest.mark.parametrize("label", [3, -1, "wolf", True])
def test_a_class_that_there_is_not_is_refused(label: Any) -> None:
    made = watch()
    answer(made, "a", 1)
    with pytest.raises(InputError, match=r"class"):
        made.label("a", label)
    made.label("a", 1)  # the answer is still there


def test_boxes_for_a_class_are_refused() -> None:
    made = watch()
    answer(made, "a", 1)
    with pytest.raises(InputError, match="its labels are a class"):
        made.label("a", [TrueBox(0, 0, 1, 1, 0)])


def test_an_unknown_id_says_what_to_do() -> None:
    with pytest.raises(NotFoundError, match="remembers no answer 'x'") as caught:
        watch().label("x", 1)
    assert "this id" in caught.value.hint


def test_a_label_that_comes_too_late_says_so() -> None:
    made = watch(most=2)
    for request_id in "abc":
        answer(made, request_id, 1)
    with pytest.raises(NotFoundError, match="too late") as caught:
        made.label("a", 1)
    assert "raise labels" in caught.value.hint
    assert made.status().remembered == 2


def test_a_second_label_is_refused() -> None:
    made = watch()
    answer(made, "a", 1)
    made.label("a", 1)
    with pytest.raises(NotFoundError, match="label already"):
        made.label("a", 1)
    assert made.status().count == 1


def test_an_id_that_is_used_again_stands_for_the_later_answer() -> None:
    made = watch()
    answer(made, "a", 0)
    answer(made, "a", 1)
    made.label("a", 1)
    answer(made, "a", 2)
    made.label("a", 2)
    assert made.status().value == 100.0


def test_a_batch_has_no_one_label() -> None:
    made = watch()
    made.remember("a", {"y": np.zeros((4, 3), np.float32)}, None, None)
    with pytest.raises(NotFoundError, match=r"can not be labelled: .*\(1, classes\)"):
        made.label("a", 1)


def test_what_is_remembered_is_bounded() -> None:
    made = watch(most=10)
    for number in range(1000):
        answer(made, f"{number}", 1)
        if number % 2:
            made.label(f"{number}", 1)
    answer(made, "x" * (MAX_ID + 1), 1)
    assert made.status().remembered <= 10
    assert len(made._gone) <= 10
    assert made.status().count == 10


def test_only_the_last_labels_count() -> None:
    made = watch(most=FEWEST)
    feed(made, FEWEST, 0)
    feed(made, FEWEST - 10, 100)
    status = made.status()
    assert (status.count, status.value) == (FEWEST, 100.0 * (FEWEST - 10) / FEWEST)


def test_it_says_that_it_is_off() -> None:
    made = watch(most=0)
    assert made.status().state == "off"
    with pytest.raises(UnsupportedError, match="not remembered") as caught:
        made.label("a", 1)
    assert "labels = 1000" in caught.value.hint


@pytest.mark.parametrize("task", ["segmentation", "tensors"])
def test_tasks_without_labels_are_refused(task: Any) -> None:
    made = watch(task)
    assert made.status().state == "off"
    with pytest.raises(UnsupportedError, match="classification and detection"):
        made.label("a", 1)


def test_boxes_are_matched_by_class_and_overlap() -> None:
    made = watch("detection", output=OutputSpec("detections", score_threshold=0.3))
    table = np.array([[[0, 0, 10, 10, 0.9, 1], [20, 20, 30, 30, 0.8, 2]]], np.float32)
    made.remember("a", {"boxes": table}, Metric("mAP", 50.0), Geometry.identity((32, 32)))
    made.label("a", [TrueBox(0, 0, 10, 11, "dog"), TrueBox(20, 20, 30, 30, 0)])
    status = made.status()
    assert (status.metric, status.value, status.expected) == ("F1", 50.0, None)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    low, high = wilson(8, 10, z=1.96)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 5)[0] == pytest.approx(0.0)
    assert wilson(5, 5)[1] == pytest.approx(1.0)

from __future__ import annotations

import numpy as np
import pytest

from edge.core.errors import ModelError
from edge.core.spec import OutputSpec
from edge.vision import Box, Label, Mask, TopAccuracy, agreement_for, decode


def box(x: float, index: int = 0, score: float = 0.9) -> Box:
    return Box(x, 0.0, x + 10.0, 10.0, index, str(index), score)


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation", "tensors"])
def test_nothing_compared_is_no_agreement(task: str) -> None:
    assert agreement_for(task).value is None


def test_classification_counts_the_same_best_label() -> None:
    same = agreement_for("classification")
    for best in (3, 3, 4, 3):
        same.add([Label(3, "c", 0.9), Label(4, "d", 0.1)], [Label(best, "x", 0.2)])
    assert same.value == 0.75


def test_detection_counts_over_all_pictures_together() -> None:
    f1 = agreement_for("detection")
    f1.add([box(0), box(50)], [box(1)])
    f1.add([], [box(0)])
    f1.add([], [])
    assert f1.value == 2 * 1 / (2 + 2)


def test_detection_needs_class_and_overlap() -> None:
    for other, expected in ((box(3), 1.0), (box(4), 0.0), (box(0, index=1), 0.0)):
        f1 = agreement_for("detection")
        f1.add([box(0)], [other])  # shifted by 3 of 10: IoU 7/13; by 4: 6/14
        assert f1.value == expected


def test_detection_matches_each_box_once() -> None:
    f1 = agreement_for("detection")
    f1.add([box(0)], [box(0), box(1, score=0.5), box(2, score=0.4)])
    assert f1.value == 2 * 1 / 4


def test_detection_without_any_box_left_does_not_agree() -> None:
    f1 = agreement_for("detection")
    f1.add([box(0)], [])
    assert f1.value == 0.0


def test_segmentation_averages_classes_over_all_pictures() -> None:
    miou = agreement_for("segmentation")
    miou.add(mask([[0, 0], [1, 1]]), mask([[0, 0], [1, 5]]))
    miou.add(mask([[0, 0, 0]]), mask([[0, 0, 1]]))
    # class 0: 4 of 5; class 1: 1 of 3; class 5: 0 of 1
    assert miou.value == pytest.approx((4 / 5 + 1 / 3 + 0) / 3)


def test_segmentation_leaves_out_what_was_not_seen() -> None:
    miou = agreement_for("segmentation")
    miou.add(mask([[-1, 2]]), mask([[0, 2]]))
    assert miou.value == 1.0


def test_segmentation_refuses_masks_of_two_sizes() -> None:
    with pytest.raises(ModelError, match="differ in size"):
        agreement_for("segmentation").add(mask([[1, 2]]), mask([[1]]))


def mask(rows: list[list[int]]) -> Mask:
    return Mask.from_array(np.array(rows), ())


def test_tensors_are_held_against_the_range_of_the_whole_output() -> None:
    within = agreement_for("tensors")
    # Range 100 over both examples, so the tolerance is 1; the first alone would have 0.
    within.add({"y": np.array([0.0])}, {"y": np.array([0.9])})
    within.add({"y": np.array([100.0, 50.0, 1.0])}, {"y": np.array([101.1, 50.0, np.nan])})
    assert within.value == 2 / 4


def test_tensors_of_each_output_have_their_own_range() -> None:
    within = agreement_for("tensors")
    small = np.array([0.0, 0.001])
    within.add(
        {"large": np.array([0.0, 1e6]), "small": small},
        {"large": np.array([5e3, 1e6]), "small": small + 0.0005},
    )
    assert within.value == 2 / 4


def test_tensor_that_is_always_the_same_is_held_against_its_size() -> None:
    for value, expected in ((5.04, 1.0), (5.06, 0.0)):
        within = agreement_for("tensors")
        within.add({"y": np.array([5.0])}, {"y": np.array([value])})
        assert within.value == expected


def test_tensors_of_zeros_infinities_and_integers_compare() -> None:
    within = agreement_for("tensors")
    zeros = np.zeros(3, np.int64)
    within.add({"y": zeros, "z": np.array([np.inf])}, {"y": zeros, "z": np.array([np.inf])})
    within.add({"y": zeros, "z": np.array([1.0])}, {"y": zeros + 1, "z": np.array([1e30])})
    assert within.value == 4 / 8


@pytest.mark.parametrize("seed", range(5))
def test_tensors_agree_with_a_count_done_at_once(seed: int) -> None:
    random = np.random.default_rng(seed)
    reference = random.normal(size=(20, 50)) * 10.0 ** random.integers(-6, 6)
    other = reference + random.normal(size=reference.shape) * np.ptp(reference) * 0.01
    within = agreement_for("tensors")
    for one, two in zip(reference, other, strict=True):
        within.add({"y": one.astype(np.float32)}, {"y": two.astype(np.float32)})
    exact = np.mean(np.abs(reference - other) <= 0.01 * np.ptp(reference))
    assert within.value == pytest.approx(exact, abs=0.01)


def test_missing_output_and_other_shape_are_named() -> None:
    for given in ({}, {"y": np.zeros((2, 1))}):
        with pytest.raises(ModelError, match="'y' must have shape"):
            agreement_for("tensors").add({"y": np.zeros(2)}, given)


def test_accuracy_counts_the_best_and_the_best_five_in_percent() -> None:
    accuracy = TopAccuracy()
    scores = np.arange(8.0)[None]
    for label in (7, 6, 3, 2):
        accuracy.add(decode({"y": scores}, OutputSpec()), label)
    assert (accuracy.top1, accuracy.top5) == (25.0, 75.0)
    assert TopAccuracy().top1 is None

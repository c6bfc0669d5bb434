"""Labels that come back for answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.core.errors import InputError, NotFoundError, UnsupportedError
from edge.core.manifest import Manifest, Metric
from edge.core.spec import OutputSpec
from edge.host.health import accuracy
from edge.host.health.accuracy import FEWEST, MAX_ID, AccuracyWatch
from edge.host.health.tally import OverlapTally, wilson
from edge.host.health.truth import TrueBox, TrueMask
from edge.vision import Geometry, Mask
from edge.vision.agreement import MaskIou

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


def test_tasks_without_labels_are_refused() -> None:
    made = watch("tensors")
    assert made.status().state == "off"
    with pytest.raises(UnsupportedError, match="classification, detection, segmentation"):
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


SIZE = (8, 8)


def seen(made: AccuracyWatch, request_id: str, classes: np.ndarray) -> None:
    geometry = Geometry.identity(SIZE)
    made.remember(request_id, {"mask": classes[None].astype(np.int32)}, MIOU, geometry)


def true_mask(classes: np.ndarray) -> TrueMask:
    mask = Mask.from_array(classes.astype(np.int16), NAMES)
    return TrueMask(mask.height, mask.width, mask.values, mask.lengths)


MIOU = Metric("mIoU", 90.0)
MASKS = OutputSpec("argmax-mask")


def pictures(count: int, wrong_share: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Answers and truths; in truths, some pixels are not to be looked at."""
    random = np.random.default_rng(7)
    made = []
    for _ in range(count):
        truth = random.integers(-1, 3, SIZE)
        is_wrong = random.random(SIZE) < wrong_share
        made.append((np.where(is_wrong, random.integers(0, 3, SIZE), np.maximum(truth, 0)), truth))
    return made


def test_masks_are_compared_as_in_a_report() -> None:
    made, report = watch("segmentation", output=MASKS), MaskIou()
    for number, (answer, truth) in enumerate(pictures(20, 0.3)):
        seen(made, f"{number}", answer)
        made.label(f"{number}", true_mask(truth))
        report.add(*(Mask.from_array(one.astype(np.int16), NAMES) for one in (truth, answer)))
    status = made.status()
    assert (status.metric, status.count, status.expected) == ("mIoU", 20, 90.0)
    assert report.value is not None
    assert status.value == pytest.approx(100.0 * report.value)
    assert status.low is not None
    assert status.high is not None
    assert status.low < status.value < status.high


@pytest.mark.parametrize(("wrong_share", "state"), [(0.02, "normal"), (0.3, "low")])
def test_masks_that_are_worse_than_they_were_are_low(wrong_share: float, state: str) -> None:
    made = watch("segmentation", output=MASKS)
    for number, (answer, truth) in enumerate(pictures(FEWEST, wrong_share)):
        seen(made, f"{number}", answer)
        made.label(f"{number}", true_mask(truth))
    assert made.status().state == state


@pytest.mark.parametrize(
    "truth",
    [
        TrueMask(4, 8, (0,), (32,)),
        TrueMask(8, 8, (0,), (63,)),
        TrueMask(8, 8, (0, 1), (64,)),
        TrueMask(8, 8, (0, 1), (65, -1)),
        TrueMask(8, 8, (), ()),
        TrueMask(8, 8, (3,), (64,)),
        TrueMask(8, 8, (-2,), (64,)),
        1,
        [TrueBox(0, 0, 1, 1, 0)],
    ],
)
def test_a_mask_that_is_none_is_refused_and_the_answer_is_still_there(truth: Any) -> None:
    made = watch("segmentation", output=MASKS)
    seen(made, "a", np.zeros(SIZE, np.int64))
    with pytest.raises(InputError):
        made.label("a", truth)
    made.label("a", TrueMask(8, 8, (0,), (64,)))
    assert made.status().value == 100.0


def test_masks_that_take_too_much_memory_make_room_from_the_oldest_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = watch("segmentation", output=MASKS)
    monkeypatch.setattr(accuracy, "MOST_BYTES", 2000)
    checkered = np.indices(SIZE).sum(axis=0) % 2  # 64 runs of 6 bytes each
    for number in range(9):
        seen(made, f"{number % 6}", checkered)  # the last three in place of earlier ones
    assert made.status().remembered == 5
    with pytest.raises(NotFoundError, match="masks are remembered in"):
        made.label("3", true_mask(checkered))
    for number in (4, 5, 0, 1, 2):
        made.label(f"{number}", true_mask(checkered))
    assert made._held_bytes == 0


def test_bounds_of_an_overlap_hold_what_all_pictures_would_say() -> None:
    """Drawn again and again from many pictures, whose overlap is known."""
    random = np.random.default_rng(3)
    every = OverlapTally(5000)
    overlaps = []
    for _ in range(5000):
        of = random.integers(5, 60, 3)
        overlap = {c: (int(random.binomial(n, 0.5 + 0.1 * c)), int(n)) for c, n in enumerate(of)}
        overlaps.append(overlap)
        every.add(overlap)
    outside = 0
    for _ in range(300):
        few = OverlapTally(60)
        for place in random.integers(0, 5000, 60):
            few.add(overlaps[place])
        low, high = few.bounds() or (1.0, 0.0)
        outside += not low <= every.value <= high
    assert outside <= 2  # 0.3 are to be expected


def test_overlaps_of_the_last_pictures_count_alone() -> None:
    tally, fresh = OverlapTally(2), OverlapTally(2)
    for overlap in ({0: (1, 9), 7: (0, 5)}, {0: (5, 5)}, {1: (2, 4)}):
        tally.add(overlap)
    for overlap in ({0: (5, 5)}, {1: (2, 4)}):
        fresh.add(overlap)
    assert tally.value == fresh.value == 0.75
    assert tally.bounds() == fresh.bounds()

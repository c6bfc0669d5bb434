"""Answers against the truth and against the source, and answers that are no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.conversion.accuracy import LOWEST_SCORE, Accuracy, output_to_measure
from edge.conversion.disagreements import MOST, Disagreements
from edge.conversion.measurement import Reference, measure, sqnr_db
from edge.conversion.samples import Dataset, Example
from edge.conversion.sampling import Sampling
from edge.core.errors import InputError
from edge.core.manifest import Metric
from edge.core.spec import ModelSpec, OutputSpec
from edge.core.tensor import TensorSpec
from edge.vision import Box, Geometry, Label, Mask
from edge.vision.average_precision import TrueBox

INPUT = TensorSpec("x", "float32", (1, 4))
BOXES = OutputSpec("ssd", score_threshold=0.5)


class Listed(Dataset):
    """Examples that a test wrote down; each is fed its own number."""

    digest = "listed"

    def __init__(self, truths: list[Any], labels: tuple[int, ...] | None = None) -> None:
        super().__init__((INPUT,), labels)
        self._truths = truths
        self.has_truth = any(truth is not None for truth in truths)

    def __len__(self) -> int:
        return len(self._truths)

    def _read(self, index: int) -> tuple[Any, Geometry | None, str]:
        feeds = {"x": np.full((1, 4), index, np.float32)}
        return feeds, Geometry.identity((10, 10)), f"/pictures/{index}.png"

    def _truth(self, index: int, geometry: Geometry | None) -> Any:
        return self._truths[index]


class Answering:
    """A session whose outputs are a function of the example's number."""

    def __init__(self, answer: Callable[[int], dict[str, np.ndarray]]) -> None:
        self._answer = answer

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        return self._answer(int(feeds["x"].flat[0]))


def sampling(dataset: Dataset, task: Any) -> Sampling:
    return Sampling(None, dataset, dataset, "", task, ())


def reference(session: Any, dataset: Dataset, task: Any, output: OutputSpec) -> Reference:
    return Reference(session, sampling(dataset, task), ModelSpec(task=task, output=output))


def ignore(done: int, total: int) -> None: ...


def found(*boxes: tuple[float, float]) -> dict[str, np.ndarray]:
    """SSD heads: one box of class 1 over the left part of the picture per (score, width)."""
    scores = np.array([[[1 - score, score] for score, _ in boxes]], np.float32)
    corners = np.array([[[0, 0, width, 1] for _, width in boxes]], np.float32)
    return {"scores": scores, "boxes": corners}


OBJECT = (TrueBox(0, 0, 10, 10, 1),)


def test_boxes_are_measured_against_the_truth_and_compared_with_the_source() -> None:
    dataset = Listed([OBJECT, OBJECT])
    source = Answering(lambda index: found((0.9, 1.0)))
    # The second picture's box is below the application's threshold: right, but not shown.
    other = Answering(lambda index: found((0.9 if index == 0 else 0.1, 1.0)))
    answers = reference(source, dataset, "detection", BOXES)
    assert measure(source, answers, ignore).metric == Metric("mAP", 100.0)
    scores = measure(other, answers, ignore)
    assert scores.metric == Metric("mAP", 100.0)
    assert scores.agreement == pytest.approx(2 / 3)
    assert [each.sample for each in scores.disagreements] == ["1.png"]


def test_doubtful_boxes_are_decoded_only_where_there_is_truth() -> None:
    assert output_to_measure(BOXES, Listed([OBJECT])).score_threshold == LOWEST_SCORE
    assert output_to_measure(BOXES, Listed([None])) == BOXES
    sure = OutputSpec("ssd", score_threshold=0.001)
    assert output_to_measure(sure, Listed([OBJECT])) == sure


def mask(*rows: list[int]) -> Mask:
    return Mask.from_array(np.array(rows), ())


def test_masks_are_measured_without_the_pixels_that_are_not_to_be_counted() -> None:
    accuracy = Accuracy("segmentation")
    truth = mask([0, 0, 1, -1])
    accuracy.add(Example({}, None, None, "", truth), mask([0, 1, 1, 1]))
    assert accuracy.metric == Metric("mIoU", 50.0)


def test_without_truth_there_is_no_metric() -> None:
    source = Answering(lambda index: found((0.9, 1.0)))
    answers = reference(source, Listed([None]), "detection", BOXES)
    scores = measure(source, answers, ignore)
    assert (scores.metric, scores.agreement) == (None, 1.0)


def logits(*values: float) -> dict[str, np.ndarray]:
    return {"y": np.array([values], np.float32)}


def test_variant_that_answers_nan_scores_nothing_and_says_where() -> None:
    dataset = Listed([None] * 20, labels=(1,) * 20)
    source = Answering(lambda index: logits(0, 1))
    broken = Answering(lambda index: logits(0, np.nan) if index == 3 else logits(0, 1))
    answers = reference(source, dataset, "classification", OutputSpec())
    scores = measure(broken, answers, ignore)
    assert (scores.metric, scores.agreement) == (Metric("top1", 0.0), 0.0)
    assert scores.note.startswith("fails on 3.png: tensor 'y' has 1 of 2 values that are NaN")
    assert measure(source, answers, ignore).metric == Metric("top1", 100.0), "the next one is whole"
    assert sqnr_db(source, broken, dataset) < 0  # type: ignore[arg-type]


def test_source_that_answers_infinity_is_refused_with_the_sample() -> None:
    source = Answering(lambda index: logits(0, np.inf))
    answers = reference(source, Listed([None]), "tensors", OutputSpec())
    with pytest.raises(InputError, match=r"the source model fails on /pictures/0\.png"):
        measure(source, answers, ignore)


def test_outputs_of_another_size_are_all_noise() -> None:
    source = Answering(lambda index: {"boxes": np.ones((3, 4), np.float32)})
    other = Answering(lambda index: {"boxes": np.ones((2, 4), np.float32)})
    assert sqnr_db(source, other, Listed([None])) == pytest.approx(0.0)  # type: ignore[arg-type]


def differing(task: Any, pairs: Iterator[tuple[Any, Any]], folder: Path | None = None) -> Any:
    apart = Disagreements(task)
    for number, (expected, got) in enumerate(pairs):
        source = str((folder or Path("/none")) / f"{number}.png")
        apart.add(Example({}, None, None, source), expected, got)
    return apart.found


def box(name: str, left: float = 0.0) -> Box:
    return Box(left, 0.0, left + 10.0, 10.0, ord(name[0]), name, 0.9)


def test_pictures_with_the_most_unmatched_boxes_come_first() -> None:
    seen = (box("person"), box("person", 50.0), box("dog"))
    pairs = [(seen, seen), (seen, seen[:2]), (seen, (box("cat"),)), ((), ())]
    worst, second = differing("detection", iter(pairs))
    assert (worst.sample, worst.expected) == ("2.png", "3 boxes: 2 person, dog")
    assert worst.got == "1 box: cat; 4 without a match"
    assert (second.sample, second.got) == ("1.png", "2 boxes: 2 person; 1 without a match")


def test_many_classes_of_boxes_are_counted_not_named() -> None:
    many = tuple(box(name) for name in "abcdef")
    (found,) = differing("detection", iter([(many, ())]))
    assert found.expected == "6 boxes: a, b, c, d, 2 other classes"
    assert found.got == "no boxes; 6 without a match"


def test_pictures_with_the_lowest_overlap_come_first() -> None:
    whole = mask([0, 0, 1, 1])
    pairs = [(whole, whole), (whole, mask([0, 0, 0, 1])), (whole, mask([1, 1, 0, 0]))]
    worst, second = differing("segmentation", iter(pairs))
    assert (worst.sample, worst.got) == ("2.png", "0 50 %, 1 50 %; IoU 0.00")
    assert (second.sample, second.expected) == ("1.png", "0 50 %, 1 50 %")


def test_tensors_name_the_value_that_is_furthest_off() -> None:
    want = {"y": np.array([[1.0, -4.0]]), "z": np.array([100.0])}
    pairs = [
        (want, {"y": np.array([[1.0, -4.02]]), "z": np.array([100.0])}),
        (want, {"y": np.array([[2.0, -4.0]]), "z": np.array([110.0])}),
    ]
    (found,) = differing("tensors", iter(pairs))
    assert (found.sample, found.expected) == ("1.png", "y[0, 0] = 1")
    assert found.got == "2, 25 % of the largest value off"


def test_list_is_short_in_order_and_has_pictures(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "0.png"), np.zeros((300, 200, 3), np.uint8))
    cat, dog = (Label(0, "cat", 1.0),), (Label(1, "dog", 1.0),)
    found = differing("classification", iter([(cat, dog)] * (2 * MOST)), tmp_path)
    assert [each.sample for each in found] == [f"{number}.png" for number in range(MOST)]
    assert found[0].thumbnail.startswith("data:image/jpeg;base64,")
    assert (found[0].expected, found[0].got, found[1].thumbnail) == ("cat", "dog", "")

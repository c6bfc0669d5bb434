"""How right a model is about samples that say what they show, by the metric of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.manifest import Metric
from edge.vision import TopAccuracy
from edge.vision.agreement import MaskIou
from edge.vision.average_precision import LOWEST_SCORE, AveragePrecision

if TYPE_CHECKING:
    from edge.conversion.samples import Dataset, Example
    from edge.core.spec import OutputSpec, Task

NAMES = {"classification": "top1", "detection": "mAP", "segmentation": "mIoU"}


class Accuracy:
    """Adds up answers against labels, boxes or masks; all metrics are in percent."""

    def __init__(self, task: Task) -> None:
        self._name = NAMES.get(task, "")
        self._labels = TopAccuracy()
        self._boxes = AveragePrecision()
        self._masks = MaskIou()

    def add(self, example: Example, got: Any) -> None:
        """Take in the prediction for one example, if it says what it shows."""
        if self._name == "top1" and example.label is not None:
            self._labels.add(got, example.label)
        elif self._name == "mAP" and example.truth is not None:
            self._boxes.add(got, example.truth)  # type: ignore[arg-type]  # boxes, by the task
        elif self._name == "mIoU" and example.truth is not None:
            self._masks.add(example.truth, got)  # type: ignore[arg-type]

    @property
    def metric(self) -> Metric | None:
        """None when no example said what it shows."""
        overlap = self._masks.value
        values = {
            "top1": self._labels.top1,
            "mAP": self._boxes.value,
            "mIoU": None if overlap is None else 100.0 * overlap,
        }
        value = values.get(self._name)
        return None if value is None else Metric(self._name, round(value, 4))

    def failed(self, measured: Dataset) -> Metric | None:
        """Of a model whose answers are no numbers."""
        is_known = measured.has_truth or (self._name == "top1" and measured.labels is not None)
        return Metric(self._name, 0.0) if is_known else None


def output_to_measure(output: OutputSpec, measured: Dataset) -> OutputSpec:
    """The decoder's settings for ``measured``: an average precision needs doubtful boxes too."""
    if not measured.has_truth:
        return output
    lowest = min(output.score_threshold, LOWEST_SCORE)
    return msgspec.structs.replace(output, score_threshold=lowest)

"""What is wrong with the samples given, before and after the source has seen them."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edge.conversion.samples import Dataset, spread
from edge.core.contracts import Finding
from edge.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.core.manifest import Metric
    from edge.core.tensor import Array, TensorSpec

LOOKED_AT = 32
"""Samples of each kind whose values are compared."""

FEWEST_CALIBRATION = 32
SCALE = 4.0
"""Pictures of other things differ in contrast by less than a factor of two; 0..255 and 0..1 by 255,
before and after division by a standard deviation of 0.23 by 4.4."""

SHIFT = 0.75
"""Of the standard deviation of the evaluation data: further apart, means are no coincidence."""

SIGMAS = 5.0
"""Standard errors beyond which colours differ, when not all samples are looked at."""

HOPELESS = {"mAP": 1.0, "mIoU": 5.0}
"""Percent that a model reaches on data that is not its own."""

EDGE = 0.2
"""Of the evaluation data's range: pictures that end further off were scaled in another way."""

BALANCE = 0.3
"""Of the standard deviation. Red less blue is 0.25 to 0.35 of it in photographs: the other way
round, twice that lies between; between two sets of photographs less than 0.1."""

AS_THE_MODEL_WANTS = "prepare both as the model was trained: [image] in model.toml does it for both"


def check_data(calibration: Dataset | None, evaluation: Dataset | None) -> tuple[Finding, ...]:
    """Compare samples to calibrate on with those to evaluate on; either may be missing.

    Raises:
        InputError: A sample can't be read, does not fit, or holds NaN.
    """
    warnings: list[tuple[str, str]] = []
    if calibration is not None:
        warnings += _about_calibration(calibration)
    if evaluation is not None:
        warnings += _about_labels(evaluation)
    if calibration is not None and evaluation is not None:
        warnings += _about_overlap(calibration, evaluation)
        before, after = _Looked(calibration), _Looked(evaluation)
        for tensor in calibration.inputs:
            if tensor.dtype.startswith("float"):
                warnings += _compare(tensor.name, before.channels(tensor), after.channels(tensor))
    return tuple(Finding("warning", message, hint) for message, hint in warnings)


def check_labels(evaluation: Dataset, outputs: Sequence[TensorSpec]) -> None:
    """Refuse labels that the model can't answer.

    Raises:
        InputError: A label is not below the number of classes.
    """
    classes = class_count(outputs)
    if evaluation.labels and classes and max(evaluation.labels) >= classes:
        raise InputError(
            f"labels go up to {max(evaluation.labels)}, the model answers {classes} classes: "
            f"0 to {classes - 1}",
            hint="classes count from 0; is this the data of another model?",
        )


def check_source(
    metric: Metric | None, evaluation: Dataset, outputs: Sequence[TensorSpec]
) -> tuple[Finding, ...]:
    """A warning when the source is right about as often as a guess would be."""
    if metric is None:
        return ()
    classes = class_count(outputs)
    if metric.name == "top1" and classes:
        count, chance = len(evaluation), 1.0 / classes
        guessed = count * chance + 2.0 * math.sqrt(count * chance * (1.0 - chance))
        is_guess = metric.value * count / 100.0 <= guessed < count
        bar = f"a guess reaches {100 * chance:.3g}"
    else:
        is_guess = metric.value < HOPELESS.get(metric.name, -math.inf)
        bar = f"less than {HOPELESS.get(metric.name, 0.0):g}"
    if not is_guess:
        return ()
    message = (
        f"the source itself reaches {metric.value:.4g} {metric.name} on {len(evaluation)} samples, "
        f"{bar}: labels or preprocessing do not fit"
    )
    hint = "compare the order of the labels, and color, scale, mean and std under [image]"
    return (Finding("warning", message, hint),)


def class_count(outputs: Sequence[TensorSpec]) -> int | None:
    """Number of scores of the one output, all but its batch; None where it is not known."""
    if len(outputs) != 1:
        return None
    sizes = [size for size in outputs[0].shape[1:] if size != 1]
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], int) else None


def _about_calibration(calibration: Dataset) -> list[tuple[str, str]]:
    count = len(calibration)
    warnings = []
    if count < FEWEST_CALIBRATION:
        warnings.append(
            (
                f"{count} samples to calibrate on; ranges are steady from about 100 on",
                "give 100 to 500 samples of what the device will see",
            )
        )
    copies = count - len({calibration.content(index) for index in range(count)})
    if copies:
        warnings.append((f"{copies} of {count} calibration samples are copies of others", ""))
    constant = [example.source for example in _picked(calibration) if _is_constant(example.feeds)]
    if constant:
        looked = min(count, LOOKED_AT)
        warnings.append(
            (
                f"{len(constant)} of {looked} calibration samples have one value all over, "
                f"such as {constant[0]}",
                "take samples of what the device will see",
            )
        )
    return warnings


def _about_labels(evaluation: Dataset) -> list[tuple[str, str]]:
    if not evaluation.labels or len(evaluation) < 2 or len({*evaluation.labels}) > 1:
        return []
    message = f"all {len(evaluation)} evaluation samples have the label {evaluation.labels[0]}"
    return [(message, "accuracy on one class says little of the others")]


def _about_overlap(calibration: Dataset, evaluation: Dataset) -> list[tuple[str, str]]:
    known = Counter(calibration.content(index) for index in range(len(calibration)))
    both = sum(evaluation.content(index) in known for index in range(len(evaluation)))
    if not both:
        return []
    message = f"{both} of {len(evaluation)} evaluation samples are also calibrated on"
    return [(message, "what is measured on them is optimistic; give other ones to --eval")]


class _Channels(msgspec.Struct):
    """Per sample and channel: (samples, channels) each; ``spread`` is the standard deviation."""

    mean: Array
    spread: Array
    low: Array
    high: Array

    @property
    def overall(self) -> float:
        """Standard deviation of all values together."""
        return float(np.sqrt((self.spread**2).mean() + self.mean.var()))

    def range_text(self) -> str:
        return f"{self.low.min():.4g} to {self.high.max():.4g}"

    def means_text(self) -> str:
        return ", ".join(f"{value:.3g}" for value in self.mean.mean(axis=0))


class _Looked:
    """Values of some samples."""

    def __init__(self, dataset: Dataset) -> None:
        self._figures: dict[str, list[Any]] = {}
        for example in _picked(dataset):
            for tensor in dataset.inputs:
                array = example.feeds[tensor.name]
                if array.dtype.kind == "f" and array.size:
                    self._figures.setdefault(tensor.name, []).append(_figures(array, tensor))

    def channels(self, tensor: TensorSpec) -> _Channels | None:
        figures = self._figures.get(tensor.name)
        return _Channels(*np.stack(figures, axis=1)) if figures else None


def _figures(array: Array, tensor: TensorSpec) -> Array:
    """Mean, standard deviation, least and largest value per channel: (4, channels)."""
    values = array.astype(np.float64)
    if len(tensor.shape) == 4 and tensor.shape[1] in (3, 4):
        rows = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    elif len(tensor.shape) == 4 and tensor.shape[3] in (3, 4):
        rows = np.moveaxis(values, 3, 0).reshape(values.shape[3], -1)
    else:
        rows = values.reshape(1, -1)
    return np.stack([rows.mean(axis=1), rows.std(axis=1), rows.min(axis=1), rows.max(axis=1)])


def _compare(
    name: str, calibration: _Channels | None, evaluation: _Channels | None
) -> list[tuple[str, str]]:
    """At most one warning, of what explains the most."""
    if calibration is None or evaluation is None or not evaluation.overall:
        return []
    ratio = calibration.overall / evaluation.overall
    if not 1.0 / SCALE < ratio < SCALE or _are_ranges_apart(calibration, evaluation):
        message = (
            f"input {name!r} goes from {calibration.range_text()} in calibration and from "
            f"{evaluation.range_text()} in evaluation: another range"
        )
        return [(message, AS_THE_MODEL_WANTS)]
    means = (
        f"means of {name!r} are {calibration.means_text()} in calibration and "
        f"{evaluation.means_text()} in evaluation"
    )
    if _are_swapped(calibration, evaluation):
        return [
            (f"{means}: as if the colours were in another order", "compare color under [image]")
        ]
    apart = np.abs(calibration.mean.mean(axis=0) - evaluation.mean.mean(axis=0))
    if apart.max() > SHIFT * evaluation.overall and apart.max() > SIGMAS * _error(
        calibration.mean.mean(axis=1), evaluation.mean.mean(axis=1)
    ):
        return [(f"{means}: another scale, or other scenes", AS_THE_MODEL_WANTS)]
    return []


def _are_ranges_apart(calibration: _Channels, evaluation: _Channels) -> bool:
    """Whether pictures end elsewhere: some of them have black and white, whatever they show."""
    if calibration.mean.shape[1] < 3 or evaluation.mean.shape[1] != calibration.mean.shape[1]:
        return False
    low, high = evaluation.low.min(axis=0), evaluation.high.max(axis=0)
    room = EDGE * (high - low)
    return bool(
        (np.abs(calibration.low.min(axis=0) - low) > room).any()
        or (np.abs(calibration.high.max(axis=0) - high) > room).any()
    )


def _are_swapped(calibration: _Channels, evaluation: _Channels) -> bool:
    """Whether the balance of the first and the last colour is another, well beyond chance.

    Their difference within a picture varies far less than the colours themselves.
    """
    if calibration.mean.shape[1] < 3 or evaluation.mean.shape[1] != calibration.mean.shape[1]:
        return False
    before = calibration.mean[:, 0] - calibration.mean[:, 2]
    after = evaluation.mean[:, 0] - evaluation.mean[:, 2]
    apart = abs(before.mean() - after.mean())
    return bool(apart > BALANCE * evaluation.overall and apart > SIGMAS * _error(before, after))


def _error(one: Array, other: Array) -> float:
    """Standard error of the difference of two means."""
    return float(np.sqrt(one.var() / len(one) + other.var() / len(other)))


def _picked(dataset: Dataset) -> Dataset:
    return dataset.pick(spread(len(dataset), LOOKED_AT))


def _is_constant(feeds: Any) -> bool:
    arrays = [array for array in feeds.values() if array.dtype.kind == "f" and array.size > 1]
    return bool(arrays) and all(array.min() == array.max() for array in arrays)

"""The samples of a conversion: what to calibrate on, and what to measure on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.conversion.datasets import Pictures, open_dataset
from edge.conversion.metrics import UserMetric
from edge.conversion.samples import Dataset, digest_of, spread
from edge.conversion.source import noise
from edge.core.errors import SettingsError
from edge.core.spec import ModelSpec, Task
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from edge.core.tensor import Feeds
    from edge.vision import Geometry

CALIBRATION_SAMPLES = 300
"""Where the accuracy of static calibration levels off: 300 to 500 real samples."""

TUNING_SAMPLES = 64
FEWEST_TUNING = 8
AGREEMENT_SAMPLES = 100
SYNTHETIC_SAMPLES = 16
NOISE_AXIS = 16
"""Size of dynamic axes other than the batch, where nothing else says one."""


class Sampling(msgspec.Struct, frozen=True):
    """``title`` says what ``measured`` is; ``task`` is the one whose measures fit it.

    ``tuning`` is what variants are compared on while it is still open which one will be measured:
    where there are enough, samples that neither calibrate nor measure.
    """

    calibration: Dataset | None
    tuning: Dataset
    measured: Dataset
    title: str
    task: Task
    labels: tuple[str, ...]
    metric: UserMetric | None = None


def open_sampling(
    spec: ModelSpec,
    inputs: tuple[TensorSpec, ...],
    calibration: Path | None,
    evaluation: Path | None,
    metric: UserMetric | None = None,
) -> Sampling:
    """Open what was given; without any data, figures are taken on noise, and say so.

    Raises:
        InputError: Data can't be read or does not fit ``inputs``.
        SettingsError: The file of labels can't be read.
    """
    labels = _labels(spec)
    samples = tuning = None
    if calibration is not None:
        samples, tuning = split(open_dataset(calibration, "calib", spec, inputs, labels=labels))
    if evaluation is not None:
        measured: Dataset = open_dataset(evaluation, "eval", spec, inputs, labels=labels)
        title = f"measured on {len(measured)} samples of {evaluation.name}"
    elif calibration is not None:
        measured = open_dataset(
            calibration, "calib", spec, inputs, labels=labels, limit=AGREEMENT_SAMPLES
        )
        title = f"measured on {len(measured)} calibration samples, so optimistic; give --eval"
    else:
        measured = _Noise(inputs, None)
        title = f"measured on {len(measured)} samples of noise, for want of --eval or --calib"
    task = _task(spec.task, measured)
    if metric is not None and task != "tensors":
        raise SettingsError(
            f"metric {metric.name} is for task = 'tensors', the model's is {task!r}",
            hint="leave one of the two out of model.toml",
        )
    return Sampling(samples, tuning or measured, measured, title, task, labels, metric)


def split(samples: Dataset) -> tuple[Dataset, Dataset]:
    """Samples to calibrate on, and others to compare variants on.

    The latter are what calibration leaves over, else the last of every five; of fewer than 40
    samples, all serve both.
    """
    count = len(samples)
    calibrating = spread(count, CALIBRATION_SAMPLES)
    if count < 5 * FEWEST_TUNING:
        return samples.pick(calibrating), samples
    others = sorted({*range(count)} - {*calibrating})
    if len(others) < TUNING_SAMPLES:
        others = [row for row in range(count) if row % 5 == 4]
        rest = [row for row in range(count) if row % 5 != 4]
        calibrating = [rest[at] for at in spread(len(rest), CALIBRATION_SAMPLES)]
    chosen = [others[at] for at in spread(len(others), TUNING_SAMPLES)]
    return samples.pick(calibrating), samples.pick(chosen)


class _Noise(Dataset):
    """Reproducible values of the right shapes, for when there is no data at all."""

    is_real = False

    def __len__(self) -> int:
        return SYNTHETIC_SAMPLES

    @property
    def digest(self) -> str:
        return digest_of("noise", self.inputs)

    def _read(self, index: int) -> tuple[Feeds, Geometry | None, str]:
        return noise(self.inputs, 1, NOISE_AXIS, seed=index), None, f"noise {index}"


def _labels(spec: ModelSpec) -> tuple[str, ...]:
    if not spec.labels:
        return ()
    try:
        return tuple(Path(spec.labels).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"can not read labels {spec.labels}: {error}",
            hint="labels names a text file with one class a line, beside model.toml",
        ) from error


def _task(task: Task, measured: Dataset) -> Task:
    """Boxes and masks are compared on pictures only: tensors alone do not say where they lie."""
    has_pictures = isinstance(measured, Pictures)
    return task if has_pictures or task == "classification" else "tensors"

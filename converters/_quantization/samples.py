"""Calibration samples that are known to fit the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge.core.contracts import Samples
from edge.core.errors import InputError
from edge.core.tensor import TensorSpec, check_feeds

if TYPE_CHECKING:
    from edge.core.tensor import Feeds

ENOUGH = 32
"""Below this the ranges depend on which samples they are; vendors ask for 300."""

MOST = 300


class CalibrationSamples:
    """At most ``limit`` of ``samples``, spread evenly, each checked when it is read."""

    def __init__(self, samples: Samples, specs: tuple[TensorSpec, ...], limit: int = MOST) -> None:
        self._samples = samples
        self._specs = specs
        count = min(len(samples), limit)
        self._chosen = {index * len(samples) // count for index in range(count)} if count else set()

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Feeds]:
        """Go through the samples.

        Raises:
            InputError: One has other names, types or shapes than the model, or is not finite.
        """
        import numpy as np

        for index, feeds in enumerate(self._samples):
            if index not in self._chosen:
                continue
            try:
                check_feeds(self._specs, feeds)
            except InputError as error:
                raise InputError(f"calibration sample {index}: {error}", hint=error.hint) from error
            for name, array in feeds.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise InputError(
                        f"calibration sample {index}: {name!r} holds NaN or infinite values",
                        hint="take the sample out, or look at how it is prepared",
                    )
            yield feeds

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the variant should know of its calibration."""
        if len(self) >= ENOUGH:
            return ()
        return (f"calibrated on {len(self)} samples only; {ENOUGH} or more make better ranges",)


def require_samples(
    samples: Samples | None, specs: tuple[TensorSpec, ...], limit: int = MOST
) -> CalibrationSamples:
    """Samples for INT8, or ``InputError`` when there are none."""
    if samples is None or len(samples) == 0:
        raise InputError(
            "int8 needs calibration samples, and there are "
            + ("none" if samples is None else "0 in what was given"),
            hint="name some real inputs with --calib",
        )
    return CalibrationSamples(samples, specs, limit)

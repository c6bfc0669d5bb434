"""Samples to calibrate and measure on, whatever they are made of."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from edge.core.errors import InputError
from edge.core.tensor import check_feeds

if TYPE_CHECKING:
    from edge.conversion.annotations import Truth
    from edge.core.tensor import Feeds, TensorSpec
    from edge.vision import Geometry


class Example(NamedTuple):
    """One sample: feeds with a batch axis of 1, how to find its picture again, and what it shows.

    ``truth`` is that of boxes and masks, ``label`` that of classes.
    """

    feeds: Feeds
    label: int | None
    geometry: Geometry | None
    source: str
    truth: Truth | None = None


class Dataset(ABC):
    """Examples, read when they are asked for, in the same order each time.

    ``labels`` holds one class index per example, or is None where nothing says the class.
    ``ignored`` counts the files that are no pictures. ``has_truth``: examples come with boxes or
    a mask. What is not ``is_real`` is noise.
    """

    ignored = 0
    has_truth = False
    is_real = True

    def __init__(self, inputs: tuple[TensorSpec, ...], labels: tuple[int, ...] | None) -> None:
        self.inputs = inputs
        self.labels = labels

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _read(self, index: int) -> tuple[Feeds, Geometry | None, str]:
        """The feeds of one example, not checked yet, its geometry, and what to call it."""

    def content(self, index: int) -> str:
        """SHA-256 of what one example is made of: equal for two that are the same."""
        return digest_of(self.digest, index)

    def _truth(self, index: int, geometry: Geometry | None) -> Truth | None:
        """What one example shows, where boxes or masks say so."""
        return None

    def __iter__(self) -> Iterator[Example]:
        """Go through all examples.

        Raises:
            InputError: One can't be read, or does not fit the model's inputs.
        """
        for index in range(len(self)):
            feeds, geometry, source = self._read(index)
            try:
                check_feeds(self.inputs, feeds)
                check_finite(feeds)
            except InputError as error:
                raise InputError(f"{source}: {error}", hint=error.hint) from error
            label = self.labels[index] if self.labels else None
            yield Example(feeds, label, geometry, source, self._truth(index, geometry))

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of all that the examples are made of: equal for equal examples."""

    def pick(self, chosen: Sequence[int]) -> Subset:
        """Some of the examples, as a dataset of their own."""
        return Subset(self, chosen)

    @property
    def samples(self) -> FeedsOnly:
        """The feeds alone, as converters take them."""
        return FeedsOnly(self)


class FeedsOnly:
    """A view of a dataset that yields feeds; see ``edge.core.contracts.Samples``."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Feeds]:
        return (example.feeds for example in self._dataset)


class Subset(Dataset):
    """Some examples of another dataset."""

    def __init__(self, whole: Dataset, chosen: Sequence[int]) -> None:
        labels = tuple(whole.labels[row] for row in chosen) if whole.labels else None
        super().__init__(whole.inputs, labels)
        self.has_truth = whole.has_truth
        self._whole = whole
        self._chosen = tuple(chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def digest(self) -> str:
        return digest_of(self._whole.digest, self._chosen)

    def content(self, index: int) -> str:
        return self._whole.content(self._chosen[index])

    def _read(self, index: int) -> tuple[Feeds, Geometry | None, str]:
        return self._whole._read(self._chosen[index])

    def _truth(self, index: int, geometry: Geometry | None) -> Truth | None:
        return self._whole._truth(self._chosen[index], geometry)


def check_finite(arrays: Feeds) -> None:
    """Raise ``InputError`` for NaN and infinite values."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise InputError(
                f"tensor {name!r} has {count} of {array.size} values that are NaN or infinite"
            )


def digest_of(*parts: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def spread(count: int, limit: int | None) -> list[int]:
    """At most ``limit`` indices below ``count``, evenly spaced."""
    if limit is None or limit >= count:
        return list(range(count))
    if limit < 1:
        raise InputError(f"a limit of {limit} examples leaves nothing", hint="give 1 or more")
    return [index * count // limit for index in range(limit)]

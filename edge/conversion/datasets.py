"""Open what ``--calib`` and ``--eval`` name: pictures in a folder, or tensors in an npz."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np

from edge.conversion.listing import Listing, list_pictures
from edge.core.errors import InputError
from edge.core.tensor import check_feeds
from edge.vision import Geometry, ImagePipeline, load_image

if TYPE_CHECKING:
    from edge.core.spec import ImageSpec, ModelSpec
    from edge.core.tensor import Array, Feeds, TensorSpec

Role = Literal["calib", "eval"]

CACHE_BYTES = 2**29
"""Fitted pictures kept for the next pass: 3500 of 224x224, 1000 of 416x416."""


class Example(NamedTuple):
    """One sample: feeds with a batch axis of 1, its class, and how to find its picture again."""

    feeds: Feeds
    label: int | None
    geometry: Geometry | None
    source: str


class Dataset(ABC):
    """Examples, read when they are asked for, in the same order each time.

    ``labels`` holds one class index per example, or is None where nothing says the class.
    ``ignored`` counts the files that are no pictures.
    """

    ignored = 0

    def __init__(self, inputs: tuple[TensorSpec, ...], labels: tuple[int, ...] | None) -> None:
        self.inputs = inputs
        self.labels = labels

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _read(self, index: int) -> tuple[Feeds, Geometry | None, str]:
        """The feeds of one example, not checked yet, its geometry, and what to call it."""

    def __iter__(self) -> Iterator[Example]:
        """Go through all examples.

        Raises:
            InputError: One can't be read, or does not fit the model's inputs.
        """
        for index in range(len(self)):
            feeds, geometry, source = self._read(index)
            try:
                check_feeds(self.inputs, feeds)
            except InputError as error:
                raise InputError(f"{source}: {error}", hint=error.hint) from error
            yield Example(feeds, self.labels[index] if self.labels else None, geometry, source)

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
        self._whole = whole
        self._chosen = tuple(chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def digest(self) -> str:
        return digest_of(self._whole.digest, self._chosen)

    def _read(self, index: int) -> tuple[Feeds, Geometry | None, str]:
        return self._whole._read(self._chosen[index])


class Pictures(Dataset):
    """Picture files, prepared as the model spec says."""

    def __init__(
        self, listing: Listing, pipeline: ImagePipeline, inputs: tuple[TensorSpec, ...]
    ) -> None:
        super().__init__(inputs, listing.labels)
        self.ignored = listing.ignored
        self._files = listing.files
        self._pipeline = pipeline
        self._fitted: dict[int, tuple[Array, Geometry]] = {}
        self._room = CACHE_BYTES

    def __len__(self) -> int:
        return len(self._files)

    @cached_property
    def digest(self) -> str:
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self._files]
        return digest_of(files, self.labels, self._pipeline.spec)

    def _read(self, index: int) -> tuple[Feeds, Geometry | None, str]:
        image, geometry = self._fitted.get(index) or self._fit(index)
        tensor = self._pipeline.normalize(image, geometry)
        return {self._pipeline.spec.input: tensor}, geometry, str(self._files[index])

    def _fit(self, index: int) -> tuple[Array, Geometry]:
        picture = load_image(self._files[index])
        try:
            fitted = self._pipeline.fit(picture)
        except InputError as error:
            raise InputError(f"{self._files[index]}: {error}", hint=error.hint) from error
        if fitted[0].nbytes <= self._room:
            self._room -= fitted[0].nbytes
            self._fitted[index] = fitted
        return fitted


class Tensors(Dataset):
    """Arrays of an npz, one per input of the model."""

    def __init__(
        self,
        path: Path,
        arrays: dict[str, Array],
        labels: tuple[int, ...] | None,
        inputs: tuple[TensorSpec, ...],
        chosen: Sequence[int],
    ) -> None:
        super().__init__(inputs, labels)
        self._path = path
        self._arrays = arrays
        self._chosen = chosen
        self._ranks = {spec.name: len(spec.shape) for spec in inputs}

    def __len__(self) -> int:
        return len(self._chosen)

    @cached_property
    def digest(self) -> str:
        arrays = {
            name: (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
            for name, array in sorted(self._arrays.items())
        }
        return digest_of(arrays, self.labels, self._chosen)

    def _read(self, index: int) -> tuple[Feeds, Geometry | None, str]:
        row = self._chosen[index]
        feeds = {name: self._sample(name, row) for name in self._arrays}
        return feeds, None, f"{self._path}, sample {row}"

    def _sample(self, name: str, row: int) -> Array:
        """A sample keeps its axis as the batch, unless each brings all axes of the input."""
        array = self._arrays[name]
        is_complete = array.ndim > self._ranks[name]
        return np.asarray(array[row]) if is_complete else array[row : row + 1]


def open_dataset(
    path: Path,
    role: Role,
    spec: ModelSpec,
    inputs: tuple[TensorSpec, ...],
    *,
    labels: Sequence[str] = (),
    limit: int | None = None,
) -> Dataset:
    """Open a folder of pictures (flat, one folder per class, or ``labels.csv``) or an npz.

    Args:
        inputs: What the model takes; each example is checked against it when it is read.
        labels: Class names in order, to find the class that a folder is named after.
        limit: Keep at most so many examples, spread evenly over all.
    Raises:
        InputError: Missing, unreadable, empty, or not what ``inputs`` and ``spec`` ask for.
    """
    if not path.exists():
        raise InputError(f"--{role} {path} does not exist")
    if path.is_dir():
        image = _image_spec(path, role, spec, inputs)
        listing = list_pictures(path, role, spec.task == "classification", labels)
        chosen = spread(len(listing.files), limit)
        return Pictures(listing.pick(chosen), ImagePipeline(image), inputs)
    if path.suffix == ".npz":
        return _open_tensors(path, role, inputs, len(labels), limit)
    raise InputError(
        f"--{role} {path} is neither a folder of pictures nor an .npz of tensors",
        hint="name the folder that the pictures lie in",
    )


def _image_spec(
    path: Path, role: Role, spec: ModelSpec, inputs: tuple[TensorSpec, ...]
) -> ImageSpec:
    if spec.image is None:
        raise InputError(
            f"--{role} {path} is a folder, but nothing says how pictures become tensors",
            hint="add [image] to model.toml and name it with --spec",
        )
    names = [tensor.name for tensor in inputs]
    if names != [spec.image.input]:
        raise InputError(
            f"[image] makes the input {spec.image.input!r}, the model takes {', '.join(names)}",
            hint=f"set image.input in model.toml to {names[0]!r}"
            if len(names) == 1
            else "give all inputs as tensors in an .npz",
        )
    return spec.image


def _open_tensors(
    path: Path, role: Role, inputs: tuple[TensorSpec, ...], classes: int, limit: int | None
) -> Tensors:
    arrays = _load_npz(path, role)
    wanted = {tensor.name for tensor in inputs}
    classes_given = None if "labels" in wanted else arrays.pop("labels", None)
    if set(arrays) != wanted:
        raise InputError(
            f"--{role} {path} holds {sorted(arrays)}, the model takes {sorted(wanted)}",
            hint="name the arrays as the inputs; an extra array 'labels' holds class indices",
        )
    lengths = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    count = min(lengths.values())
    if count == 0 or len(set(lengths.values())) > 1:
        raise InputError(
            f"--{role} {path}: numbers of samples must be equal and above 0, got {lengths}",
            hint="the first axis of each array counts the samples",
        )
    chosen = spread(count, limit)
    picked = None
    if classes_given is not None:
        _check_classes(path, classes_given, count, classes)
        picked = tuple(int(classes_given[row]) for row in chosen)
    return Tensors(path, arrays, picked, inputs, chosen)


def _load_npz(path: Path, role: Role) -> dict[str, Array]:
    import zipfile
    import zlib

    try:
        with path.open("rb") as stream:
            # Never unpickles: an array of objects is refused.
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array, not an .npz")
            return dict(archive)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"can not read --{role} {path}: {error}", hint="write it with numpy.savez"
        ) from error


def _check_classes(path: Path, given: Array, count: int, classes: int) -> None:
    if given.shape != (count,) or given.dtype.kind not in "iu":
        raise InputError(
            f"{path}: 'labels' must be {count} integers, got {given.dtype} {given.shape}"
        )
    if given.min() < 0 or (classes and given.max() >= classes):
        raise InputError(
            f"{path}: 'labels' go from {given.min()} to {given.max()}, "
            f"classes from 0{f' to {classes - 1}' if classes else ''}"
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

"""Open what ``--calib`` and ``--eval`` name: pictures in a folder, or tensors in an npz."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from edge.conversion.annotations import MASKS, Annotations, Truth, open_annotations
from edge.conversion.listing import Listing, list_pictures
from edge.conversion.samples import Dataset, digest_of, spread
from edge.core.errors import InputError
from edge.vision import Geometry, ImagePipeline, load_image

if TYPE_CHECKING:
    from edge.core.spec import ImageSpec, ModelSpec
    from edge.core.tensor import Array, Feeds, TensorSpec

Role = Literal["calib", "eval"]

CACHE_BYTES = 2**29
"""Fitted pictures kept for the next pass: 3500 of 224x224, 1000 of 416x416."""


class Pictures(Dataset):
    """Picture files, prepared as the model spec says; ``annotations`` cover all of them."""

    def __init__(
        self,
        listing: Listing,
        pipeline: ImagePipeline,
        inputs: tuple[TensorSpec, ...],
        annotations: Annotations | None = None,
    ) -> None:
        super().__init__(inputs, listing.labels)
        self.has_truth = annotations is not None
        self._annotations = annotations
        self.ignored = listing.ignored
        self._files = listing.files
        self._pipeline = pipeline
        self._fitted: dict[int, tuple[Array, Geometry]] = {}
        self._room = CACHE_BYTES

    def __len__(self) -> int:
        return len(self._files)

    @cached_property
    def digest(self) -> str:
        truth = self._annotations.digest if self._annotations else ""
        return digest_of(self._contents, self.labels, self._pipeline.spec, truth)

    @cached_property
    def _contents(self) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in self._files]

    def content(self, index: int) -> str:
        return self._contents[index]

    def _truth(self, index: int, geometry: Geometry | None) -> Truth | None:
        if self._annotations is None or geometry is None:
            return None
        return self._annotations.of(self._files[index], geometry.picture)

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

    def content(self, index: int) -> str:
        rows = (self._arrays[name][self._chosen[index]].tobytes() for name in sorted(self._arrays))
        return hashlib.sha256(b"".join(rows)).hexdigest()

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

    For ``eval``, boxes and masks in the folder are the truth of its pictures.

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
        _check_batch(path, role, inputs[0])
        listing = list_pictures(path, role, spec.task == "classification", labels)
        annotations = open_annotations(path, spec.task, labels) if role == "eval" else None
        listing = _fitting(listing, path, spec, annotations)
        chosen = spread(len(listing.files), limit)
        return Pictures(listing.pick(chosen), ImagePipeline(image), inputs, annotations)
    if path.suffix == ".npz":
        return _open_tensors(path, role, inputs, len(labels), limit)
    raise InputError(
        f"--{role} {path} is neither a folder of pictures nor an .npz of tensors",
        hint="name the folder that the pictures lie in",
    )


def _fitting(
    listing: Listing, path: Path, spec: ModelSpec, annotations: Annotations | None
) -> Listing:
    """Without the masks, which are pictures too, and without what nothing is known of."""
    kept = [
        index
        for index, file in enumerate(listing.files)
        if not (spec.task == "segmentation" and path / MASKS in file.parents)
        and (annotations is None or annotations.covers(file))
    ]
    if not kept:
        raise InputError(
            f"none of the {len(listing.files)} pictures in {path} has boxes or a mask",
            hint="boxes name pictures as file_name; masks are masks/<the picture's stem>.png",
        )
    fitting = listing.pick(kept)
    left_out = listing.ignored + len(listing.files) - len(kept)
    return msgspec.structs.replace(fitting, ignored=left_out)


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


def _check_batch(path: Path, role: Role, tensor: TensorSpec) -> None:
    """Samples are answered and compared one by one."""
    batch = tensor.shape[0] if tensor.shape else 1
    if isinstance(batch, int) and batch > 1:
        raise InputError(
            f"--{role} {path} gives samples one by one, the model takes {batch} at once "
            f"in {tensor.name!r} {tensor.shape_text}",
            hint="leave --batch out or at 1: --calib and --eval need a batch of 1 or any",
        )


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
    for tensor in inputs:
        if arrays[tensor.name].ndim <= len(tensor.shape):  # else each sample brings all axes
            _check_batch(path, role, tensor)
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

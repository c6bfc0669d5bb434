"""What one inference looks like in a few numbers; the same at conversion as on the device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge.core.errors import EdgeError
from edge.core.spec import OutputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.core.manifest import Manifest
    from edge.core.spec import ImageSpec, Task
    from edge.core.tensor import Array, Feeds
    from edge.vision import Geometry

LOOKED_AT = 16_384
"""Elements of a tensor, evenly spaced: the mean of so many is that of all, to 1 % of the spread."""
MOST_OUTPUT_BYTES = 8 * 2**20
"""Outputs above are not decoded, as copying them would take longer than a small model."""
MASK_SIDE = 128
MOST_FEATURES = 8

_NUMBERS = "biuf"

Look = dict[str, float]
"""Name of a statistic, as ``input.data.spread`` or ``output.confidence`` -> value."""


class Sample(NamedTuple):
    """Copies of parts of tensors, so that who owns those may go on with them."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    size: tuple[int, int] | None
    """Height and width of the picture, if one goes in."""
    is_decodable: bool


class Looker:
    """Looks at inferences of one model, by what its manifest declares.

    Of an input: mean and spread; of pictures the mean of each channel, and detail, which is how
    much neighbours differ, as a share of the spread; of a few numbers each of them. Of labels the
    confidence, by how much it exceeds the next one's, and the class; of boxes their number, best
    score and its class; of masks the number of regions, and the class and share of the largest; of
    all other outputs mean and spread.
    """

    def __init__(self, task: Task, image: ImageSpec | None, output: OutputSpec | None) -> None:
        self._task = task
        self._image = image
        self._output = output or OutputSpec()

    @classmethod
    def of(cls, manifest: Manifest) -> Looker:
        return cls(manifest.task, manifest.image, manifest.output)

    def take(self, feeds: Feeds, outputs: Mapping[str, Array]) -> Sample:
        """Keep what ``look`` needs; of a batch, the first row."""
        feeds, outputs = _first_row(feeds, outputs)
        numbers = {name: array for name, array in feeds.items() if _has_numbers(array)}
        inputs: dict[str, Array] = {}
        size = None
        image, planes = self._image, self._planes(feeds)
        if image is not None and planes is not None:
            del numbers[image.input]
            size = (planes.shape[1], planes.shape[2])
            rows = planes[:, :: _stride(planes.size), :]
            inputs[image.input] = rows.astype(np.float32)
        inputs |= {name: _thinned(array) for name, array in numbers.items()}
        if self._is_decodable(outputs, size):
            return Sample(inputs, self._kept(outputs), size, is_decodable=True)
        thinned = {name: _thinned(array) for name, array in outputs.items() if _has_numbers(array)}
        return Sample(inputs, thinned, size, is_decodable=False)

    def look(self, sample: Sample) -> Look:
        """The statistics of a sample; those that can't be had are missing."""
        look: Look = {}
        for name, array in sample.inputs.items():
            if array.ndim == 3:
                self._look_at_picture(f"input.{name}", array, look)
            else:
                _look_at_numbers(f"input.{name}", array, look)
        if sample.is_decodable:
            look |= self._look_at_prediction(sample)
        else:
            for name, array in sample.outputs.items():
                _look_at_numbers(f"output.{name}", array, look)
        return look

    def geometry(self, feeds: Feeds) -> Geometry | None:
        """That of a picture of which no more is known than the tensor."""
        from edge.vision import Geometry

        planes = self._planes(feeds)
        return None if planes is None else Geometry.identity((planes.shape[1], planes.shape[2]))

    def _planes(self, feeds: Feeds) -> Array | None:
        """The picture (channels, height, width), if one goes in."""
        image = self._image
        picture = feeds.get(image.input) if image is not None else None
        if image is None or picture is None or picture.ndim != 4 or not _has_numbers(picture):
            return None
        planes: Array = picture[0]
        return planes if image.layout == "nchw" else planes.transpose(2, 0, 1)

    def _is_decodable(self, outputs: Mapping[str, Array], size: tuple[int, int] | None) -> bool:
        if self._task == "tensors" or (self._task != "classification" and size is None):
            return False
        is_small = sum(array.nbytes for array in outputs.values()) <= MOST_OUTPUT_BYTES
        return is_small or self._task == "segmentation"

    def _kept(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._task != "segmentation":
            return {name: array.copy() for name, array in outputs.items()}
        kept = {}
        for name, array in outputs.items():
            step = max(1, max(array.shape[-2:], default=1) // MASK_SIDE) if array.ndim > 2 else 1
            kept[name] = (array[..., ::step, ::step] if array.ndim > 2 else array).copy()
        return kept

    def _look_at_picture(self, name: str, planes: Array, look: Look) -> None:
        spread = float(planes.std())
        colours = self._image.color if self._image and self._image.color != "gray" else "y"
        for colour, plane in zip(colours, planes, strict=False):
            look[f"{name}.mean.{colour}"] = float(plane.mean())
        look[f"{name}.spread"] = spread
        steps = float(np.abs(np.diff(planes, axis=2)).mean()) if planes.shape[2] > 1 else 0.0
        look[f"{name}.detail"] = steps / spread if spread else 0.0

    def _look_at_prediction(self, sample: Sample) -> Look:
        from edge.vision import Geometry, decode

        geometry = Geometry.identity(sample.size) if sample.size else None
        try:
            prediction: Any = decode(sample.outputs, self._output, geometry=geometry)
        except EdgeError:  # they are of another form here: what is missing is told of as such
            return {}
        return _LOOKS[self._task](prediction)


def _look_at_labels(labels: Any) -> Look:
    margin = labels[0].score - labels[1].score if len(labels) > 1 else labels[0].score
    return {
        "output.confidence": labels[0].score,
        "output.margin": margin,
        "output.class": float(labels[0].index),
    }


def _look_at_boxes(boxes: Any) -> Look:
    best = boxes[0] if boxes else None
    return {
        "output.boxes": float(len(boxes)),
        "output.score": best.score if best else 0.0,
        "output.class": float(best.index) if best else -1.0,
    }


def _look_at_mask(mask: Any) -> Look:
    largest = mask.regions[0] if mask.regions else None
    return {
        "output.regions": float(len(mask.regions)),
        "output.share": largest.share if largest else 0.0,
        "output.class": float(largest.index) if largest else -1.0,
    }


_LOOKS = {
    "classification": _look_at_labels,
    "detection": _look_at_boxes,
    "segmentation": _look_at_mask,
}


def _look_at_numbers(name: str, array: Array, look: Look) -> None:
    if array.size <= MOST_FEATURES:
        for number, value in enumerate(array.reshape(-1).tolist()):
            look[f"{name}.{number}"] = float(value)
        return
    with np.errstate(all="ignore"):
        look[f"{name}.mean"] = float(array.mean(dtype=np.float64))
        look[f"{name}.spread"] = float(array.std(dtype=np.float64))


def _first_row(
    feeds: Feeds, outputs: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Of tensors that all have as many rows; others belong together as they are."""
    rows = {
        array.shape[0] if array.ndim else 0 for each in (feeds, outputs) for array in each.values()
    }
    if len(rows) != 1 or min(rows) < 2:
        return dict(feeds), dict(outputs)
    return ({n: a[:1] for n, a in feeds.items()}, {n: a[:1] for n, a in outputs.items()})


def _has_numbers(array: Array) -> bool:
    return array.dtype.kind in _NUMBERS and array.size > 0


def _thinned(array: Array) -> Array:
    flat = array.reshape(-1)
    thinned: Array = flat[:: _stride(flat.size)].copy()
    return thinned


def _stride(elements: int) -> int:
    return math.ceil(elements / LOOKED_AT) or 1

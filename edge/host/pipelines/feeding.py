"""From pictures to what one model is fed, as few batches as it takes, and back to answers."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge.core.errors import EngineError
from edge.host.batching import declared_batches
from edge.vision import ImagePipeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edge.core.spec import ImageSpec
    from edge.core.tensor import Array
    from edge.host.model import Model
    from edge.host.pipelines.crops import Region
    from edge.vision import Geometry

log = logging.getLogger(__name__)

Key = tuple[int, ...]
"""Which box of which box …, along a step's path: () for the whole picture."""

MAX_ROWS = 8
"""Pictures in one batch, where the model's settings do not say. More gain nothing on a CPU, and
engines that are built ahead take no more unless they are told to."""

_KEPT_BUFFERS = 4


class Part(NamedTuple):
    """What a model runs at once for a step: one row for each key, and some that fill it up.

    Where the rows are pictures, ``regions`` are what they show, and ``geometries`` how.
    ``buffer`` is the memory of its rows, to be used again; None if it is not ours.
    """

    keys: tuple[Key, ...]
    feeds: dict[str, Array]
    regions: tuple[Region, ...] = ()
    geometries: tuple[Geometry, ...] = ()
    rows: int = 1
    buffer: Array | None = None
    is_half: bool = False

    def halves(self) -> tuple[Part, Part]:
        """The same rows in two parts."""
        middle = self.rows // 2
        first, second = (
            self._replace(
                keys=self.keys[part],
                feeds={name: array[part] for name, array in self.feeds.items()},
                regions=self.regions[part],
                geometries=self.geometries[part],
                rows=len(self.keys[part]),
                buffer=None,
                is_half=True,
            )
            for part in (slice(middle), slice(middle, None))
        )
        return first, second

    def split(self, outputs: dict[str, Array]) -> list[dict[str, Array]]:
        """The outputs of each key: views of those of the batch.

        Raises:
            EngineError: There is not a row for each.
        """
        if self.rows == 1:
            return [outputs]
        for name, array in outputs.items():
            if array.shape[:1] != (self.rows,):
                raise EngineError(f"output {name!r} of {self.rows} pictures has {array.shape}")
        return [
            {name: array[row : row + 1] for name, array in outputs.items()}
            for row in range(len(self.keys))
        ]


class _Fitted(NamedTuple):
    """A picture in the size that its model takes."""

    key: Key
    region: Region
    image: Array
    geometry: Geometry


class Feeder:
    """Puts pictures into batches for a model, as its ``[image]`` says. Any thread may call it."""

    def __init__(self, model: Model, image: ImageSpec) -> None:
        self._made_for = model.digest, model.inputs
        self._name = model.name
        self._input = image.input
        self._pipeline = ImagePipeline(image)
        self.max_rows, self._is_padded = _rows(model)
        self._buffers: deque[Array] = deque(maxlen=_KEPT_BUFFERS)

    def is_for(self, model: Model) -> bool:
        """Whether it is the same model, on a variant that takes the same tensors."""
        return self._made_for == (model.digest, model.inputs)

    def parts(
        self, picture: Array, keys: Sequence[Key], regions: Sequence[Region]
    ) -> Iterator[Part]:
        """Regions of a picture, one for each key, in the fewest batches.

        Raises:
            InputError: One can't be brought into the form that the model takes.
        """
        size = self.max_rows
        for start in range(0, len(keys), size):
            some = [
                _Fitted(key, region, *self._pipeline.fit(region.of(picture)))
                for key, region in zip(keys[start:][:size], regions[start:], strict=False)
            ]
            if len({one.geometry.tensor for one in some}) == 1:
                yield self._part(some, len(keys))
            else:  # of a model that takes pictures of any size
                for one in some:
                    yield self._part([one], 1)

    def end(self, part: Part) -> None:
        """A part was run: its memory is free, and if it is half of one that failed, that was too
        large for the engine."""
        if part.buffer is not None:
            self._buffers.append(part.buffer)
        if part.is_half and part.rows < self.max_rows:
            log.info("%s takes no more than %d pictures at once", self._name, part.rows)
            self.max_rows = part.rows

    def can_halve(self, part: Part) -> bool:
        return part.rows > 1 and not self._is_padded

    def _part(self, some: list[_Fitted], wanted: int) -> Part:
        height, width = some[0].geometry.tensor
        channels, is_nchw = self._pipeline.spec.channels, self._pipeline.spec.layout == "nchw"
        shape = (channels, height, width) if is_nchw else (height, width, channels)
        rows = self.max_rows if self._is_padded else len(some)
        buffer = self._buffer((max(rows, min(wanted, self.max_rows)), *shape))
        batch = buffer[:rows]
        for row, one in enumerate(some):
            self._pipeline.normalize(one.image, one.geometry, into=batch[row : row + 1])
        batch[len(some) :] = batch[:1]
        return Part(
            keys=tuple(one.key for one in some),
            feeds={self._input: batch},
            regions=tuple(one.region for one in some),
            geometries=tuple(one.geometry for one in some),
            rows=rows,
            buffer=buffer,
        )

    def _buffer(self, shape: tuple[int, ...]) -> Array:
        """Memory that was used before, if there is enough of it: new pages cost as much as a
        small model's layer."""
        try:
            kept = self._buffers.pop()
        except IndexError:
            kept = None
        if kept is not None and kept.shape[1:] == shape[1:] and len(kept) >= shape[0]:
            return kept
        return np.empty(shape, np.float32)


def _rows(model: Model) -> tuple[int, bool]:
    """How many pictures the model takes at once, and whether it must be as many."""
    plan = model.batches
    if not plan.is_on and not plan.reason:  # nobody asked for batches of requests
        plan = declared_batches(model.inputs, model.outputs, MAX_ROWS)
    return plan.max_rows, plan.is_padded

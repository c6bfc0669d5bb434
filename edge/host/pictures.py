"""From a picture to a model's tensors, and from its outputs to what they say of the picture."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from edge.core.errors import InputError, UnsupportedError
from edge.core.spec import OutputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.core.manifest import Manifest
    from edge.core.tensor import Array, TensorSpec
    from edge.vision import Geometry, ImagePipeline, Prediction
    from edge.vision.image import Picture


class Pictures:
    """What a model's manifest declares about pictures, for ``inputs`` that it takes."""

    def __init__(
        self, manifest: Manifest, labels: tuple[str, ...], inputs: tuple[TensorSpec, ...]
    ) -> None:
        self._manifest = manifest
        self._labels = labels
        self._inputs = inputs

    def prepare(self, picture: Picture) -> tuple[dict[str, Array], Geometry]:
        """What to feed, and where the picture lies in it.

        Raises:
            InputError: The picture can't be read, or the model takes more than that.
            UnsupportedError: The manifest does not say how pictures become tensors.
        """
        pipeline = self._pipeline
        tensor, geometry = pipeline.prepare(picture)
        return {pipeline.spec.input: tensor}, geometry

    def decode(
        self, outputs: Mapping[str, Array], geometry: Geometry | None, top: int | None
    ) -> Prediction:
        """What the outputs for one picture say."""
        from edge.vision import decode

        spec = self._manifest.output or OutputSpec()
        if top is not None:
            spec = msgspec.structs.replace(spec, top=top)
        return decode(outputs, spec, geometry=geometry, labels=self._labels)

    @cached_property
    def _pipeline(self) -> ImagePipeline:
        from edge.vision import ImagePipeline

        image, name = self._manifest.image, self._manifest.name
        if image is None:
            raise UnsupportedError(
                f"{name} does not say how a picture becomes its tensors",
                hint="declare [image] in model.toml and convert it again, or call infer()",
            )
        if [spec.name for spec in self._inputs] != [image.input]:
            raise InputError(
                f"{name} takes more than the picture {image.input!r}: "
                f"{', '.join(spec.name for spec in self._inputs)}",
                hint="call infer() with all of its tensors",
            )
        return ImagePipeline(image)

"""From the outputs of a model to a prediction, by the decoder that its ``OutputSpec`` names."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from edge.core import plugins
from edge.core.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.core.spec import OutputSpec
    from edge.core.tensor import Array
    from edge.vision.geometry import Geometry
    from edge.vision.predictions import Prediction

PACKAGE = "edge.vision.decoders"


class Decoder(Protocol):
    """Turns the outputs for one picture, with their batch axis of 1, into a prediction."""

    def __call__(
        self,
        outputs: Mapping[str, Array],
        geometry: Geometry | None,
        spec: OutputSpec,
        labels: Sequence[str],
    ) -> Prediction: ...


def decoder_names() -> list[str]:
    """Names that ``output.decode`` may take, sorted."""
    return [stem.replace("_", "-") for stem in plugins.stems(PACKAGE)]


@cache
def decoder(name: str) -> Decoder:
    """The decoder ``name``; its file has underscores for dashes.

    Raises:
        SettingsError: There is none of that name.
    """
    if name not in decoder_names():
        raise SettingsError(
            f"output.decode names no decoder: {name!r}",
            hint=f"there are: {', '.join(decoder_names())}",
        )
    module = importlib.import_module(f"{PACKAGE}.{name.replace('-', '_')}")
    return cast("Decoder", module.DECODER)


def decode(
    outputs: Mapping[str, Array],
    spec: OutputSpec,
    *,
    geometry: Geometry | None = None,
    labels: Sequence[str] = (),
) -> Prediction:
    """Decode the outputs for one picture.

    Args:
        outputs: Output name -> array with a batch axis of 1.
        geometry: What ``ImagePipeline.prepare`` said; boxes and masks need it, labels don't.
    Raises:
        SettingsError: There is no such decoder.
        ModelError: The outputs are not of the form that the decoder reads.
    """
    return decoder(spec.decode)(outputs, geometry, spec, labels)


def only_output(outputs: Mapping[str, Array], rank: int, form: str) -> Array:
    """The one output that there must be, without its batch axis of 1."""
    shapes = {name: array.shape for name, array in outputs.items()}
    if len(outputs) == 1:
        (array,) = outputs.values()
        if array.ndim == rank and array.shape[0] == 1:
            picked: Array = array[0]
            return picked
    raise ModelError(
        f"this decoder reads one output of shape {form}, the model gives {shapes}",
        hint="choose another one under [output] in model.toml: " + ", ".join(decoder_names()),
    )


def placed(geometry: Geometry | None) -> Geometry:
    """``geometry``, which a decoder of boxes or masks can't do without."""
    if geometry is None:
        raise ModelError(
            "boxes and masks need the picture's geometry to be decoded",
            hint="declare [image] in the model spec, and give pictures instead of tensors",
        )
    return geometry

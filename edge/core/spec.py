"""``model.toml``: what a model file can't say of itself (task, labels, picture pipeline)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.core.errors import SettingsError

Task = Literal["classification", "detection", "segmentation", "tensors"]

Pixels = Annotated[int, Meta(gt=0, le=32_768)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Resize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of: the shorter side, the longer side, or ``(height, width)`` in pixels."""

    shorter: Pixels | None = None
    longer: Pixels | None = None
    exact: tuple[Pixels, Pixels] | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.shorter, self.longer, self.exact) if v is not None]
        if len(given) != 1:
            raise ValueError("resize takes exactly one of shorter, longer, exact")


class Pad(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fill up to ``size`` (height, width) with ``value`` in the picture's own 0..255 range."""

    size: tuple[Pixels, Pixels]
    value: float = 0.0
    anchor: Literal["top-left", "center"] = "center"


class ImageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a picture becomes the tensor ``input``: resize, crop or pad, colour, scale, layout.

    Values: ``(x * scale - mean) / std`` per channel, in the order that ``color`` names.
    """

    input: str
    resize: Resize | None = None
    crop: tuple[Pixels, Pixels] | None = None
    pad: Pad | None = None
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.crop is not None and self.pad is not None:
            raise ValueError("image takes crop or pad, not both")
        for values in (self.mean, self.std):
            if len(values) not in (1, self.channels):
                raise ValueError(f"mean and std take 1 or {self.channels} values for {self.color}")
        if 0.0 in self.std:
            raise ValueError("std must not be 0")

    @property
    def channels(self) -> int:
        return 1 if self.color == "gray" else 3


class OutputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How outputs become an answer: the name of a decoder and what it needs to know.

    ``top`` is the number of labels to give; the thresholds are for boxes.
    """

    decode: str = "softmax"
    top: Annotated[int, Meta(ge=1)] = 5
    score_threshold: Share = 0.3
    iou_threshold: Share = 0.45


class BuildSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device is told when it builds an engine; 0 and None leave it to the profile.

    ``refit`` makes engines that take new weights without being built again, ``sparse`` allows
    kernels that skip every other pair of zeros, ``dla`` is the number of a deep learning
    accelerator. ``max_batch`` is the largest batch where the axis is dynamic.
    """

    max_batch: Annotated[int, Meta(ge=1)] = 8
    workspace_mb: Annotated[int, Meta(ge=0)] = 0
    dla: Annotated[int, Meta(ge=0)] | None = None
    sparse: bool = False
    refit: bool = False


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a user says of a model; each field has a default that the file's name can fill."""

    name: str = ""
    version: str = "1"
    task: Task = "tensors"
    labels: str = ""
    metric: str = ""
    image: ImageSpec | None = None
    output: OutputSpec | None = None
    build: BuildSpec = BuildSpec()


def load_spec(path: Path) -> ModelSpec:
    """Read a ``model.toml``; ``labels`` becomes a path that holds from anywhere.

    Raises:
        SettingsError: The file is missing, is no TOML, or holds unknown or wrong values.
    """
    try:
        spec = msgspec.toml.decode(path.read_bytes(), type=ModelSpec)
    except OSError as error:
        raise SettingsError(f"can not read model spec {path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise SettingsError(f"{path}: {error}", hint="compare with docs/conversion.md") from error
    if spec.labels:
        spec = msgspec.structs.replace(spec, labels=str(path.parent / spec.labels))
    return spec

"""``[pipelines.<name>]``: models that work together, as a user declares them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edge.core.manifest import Name

PICTURE = "picture"
"""What a pipeline's picture is called among its inputs."""
INPUT = "input"
"""Whose tensors a pipeline's own inputs are, where steps refer to tensors."""

StepName = Annotated[str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_-]{0,98}\Z")]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(ge=1)]


class StepSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[pipelines.<name>.steps.<step>]``: one model, and what it looks at.

    Without ``inputs`` that is the picture, or with ``crop`` each box that another step found, all
    in as few batches as the model takes. ``labels``, ``min_score``, ``min_side`` (pixels) and
    ``limit`` (the best ones) say which boxes, ``margin`` how much of a box's sides is added around
    it. ``inputs`` gives a model its tensors by name: ``"step.tensor"``, or ``"input.name"`` for one
    of the pipeline's own. ``top`` is how many labels to give, None as many as the model's bundle
    says. The step runs ``when`` all of these hold, else it has no result.
    """

    model: str
    crop: str = ""
    labels: tuple[str, ...] = ()
    min_score: Share = 0.0
    min_side: Positive = 1
    margin: Annotated[float, Meta(ge=0, le=4)] = 0.0
    limit: Positive | None = None
    inputs: dict[str, str] = {}
    top: Positive | None = None
    when: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.crop and self.inputs:
            raise ValueError("a step takes crop or inputs, not both")
        of_boxes = ("labels", "min_score", "min_side", "margin", "limit")
        defaults = {field.name: field.default for field in msgspec.structs.fields(self)}
        given = [key for key in of_boxes if getattr(self, key) != defaults[key]]
        if given and not self.crop:
            raise ValueError(f"{given[0]} is about boxes, and crop names no step that finds some")


class PipelineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Steps in any order; ``output`` names those (or ``step.tensor``) to answer with, () all.

    ``instances`` is how many pictures are worked on at the same time, ``queue`` how many may wait.
    """

    steps: dict[StepName, StepSpec]
    output: tuple[str, ...] = ()
    instances: Annotated[int, Meta(ge=1, le=64)] = 2
    queue: Positive = 64


Pipelines = dict[Name, PipelineSpec]

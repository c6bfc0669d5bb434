"""Class scores (1, classes) become the most probable labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.core.errors import ModelError
from edge.vision.predictions import Label, class_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.core.spec import OutputSpec
    from edge.core.tensor import Array
    from edge.vision.geometry import Geometry


def decode(
    outputs: Mapping[str, Array],
    geometry: Geometry | None,
    spec: OutputSpec,
    labels: Sequence[str],
) -> tuple[Label, ...]:
    """The ``spec.top`` labels. Scores that are probabilities already stay as they are."""
    scores = class_scores(outputs)
    chances = scores if are_probabilities(scores) else softmax(scores)
    best = np.argsort(-chances, kind="stable")[: spec.top]
    return tuple(Label(i, class_name(labels, i), float(chances[i])) for i in best.tolist())


def class_scores(outputs: Mapping[str, Array]) -> Array:
    """The scores of one picture, float64 (classes,); axes of size 1 are dropped."""
    arrays = list(outputs.values())
    if len(arrays) != 1 or arrays[0].size < 2 or max(arrays[0].shape) != arrays[0].size:
        shapes = {name: array.shape for name, array in outputs.items()}
        raise ModelError(
            f"softmax reads one output of class scores (1, classes), the model gives {shapes}",
            hint='set task = "tensors" in model.toml if these are not class scores',
        )
    return arrays[0].reshape(-1).astype(np.float64)


def are_probabilities(scores: Array) -> bool:
    """Whether all lie in 0..1 and sum to 1, as far as an INT8 output is fine enough to tell."""
    # An INT8 softmax output steps by 1/256: rounding to it moves the sum by a per cent or so.
    return bool(scores.min() >= 0.0 and scores.max() <= 1.0 and abs(scores.sum() - 1.0) < 0.02)


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max())
    chances: Array = powers / powers.sum()
    return chances


DECODER = decode

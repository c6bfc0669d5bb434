"""Class scores (1, classes) of which several may hold at once become labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.vision.decoders.softmax import class_scores
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
    """The ``spec.top`` labels, each with a probability of its own; 0..1 stays as it is."""
    scores = class_scores(outputs)
    is_chance = scores.min() >= 0.0 and scores.max() <= 1.0
    chances = scores if is_chance else 0.5 * (1.0 + np.tanh(0.5 * scores))
    best = np.argsort(-chances, kind="stable")[: spec.top]
    return tuple(Label(i, class_name(labels, i), float(chances[i])) for i in best.tolist())


DECODER = decode

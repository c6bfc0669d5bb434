"""Class scores per pixel (1, classes, height, width) become a mask of the picture.

Integers (1, height, width) or (1, 1, height, width) are classes that the graph chose itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.vision.decoding import only_output, placed
from edge.vision.predictions import Mask

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
) -> Mask:
    """The best class of each pixel, in the picture's own size; the padding is cut off."""
    classes = _given(outputs)
    if classes is None:
        classes = _argmax(only_output(outputs, 4, "(1, classes, height, width)"))
    return Mask.from_array(placed(geometry).mask_to_picture(classes), labels)


def _given(outputs: Mapping[str, Array]) -> Array | None:
    """Classes (height, width) where the graph gives them."""
    (array,) = outputs.values() if len(outputs) == 1 else (None,)
    if array is None or array.dtype.kind not in "iu" or set(array.shape[:-2]) != {1}:
        return None
    classes: Array = array.reshape(array.shape[-2:])
    return classes


def _argmax(scores: Array) -> Array:
    """``scores.argmax(axis=0)``, plane by plane: 11 ms for (21, 513, 513) instead of 26 ms."""
    best = scores.max(axis=0)
    classes = np.zeros(best.shape, np.int16)
    for index in reversed(range(len(scores))):
        np.putmask(classes, scores[index] == best, index)
    return classes


DECODER = decode

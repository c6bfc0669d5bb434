"""Ready-made metrics of how true a variant stays to its source; name them in ``model.toml``.

``metric = "edge.conversion.fidelity:psnr"``; see ``metrics.UserMetric`` for what they are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds

Outputs = Sequence["Feeds"]


def psnr(outputs: Outputs, references: Outputs, feeds: Outputs, labels: Sequence[Any]) -> float:
    """Peak signal to noise ratio in dB over all samples; the peak is the reference's range."""
    pairs = list(_pairs(outputs, references))
    low = min(float(want.min()) for want, _ in pairs)
    high = max(float(want.max()) for want, _ in pairs)
    error = sum(float(np.square(want - got).sum()) for want, got in pairs)
    mean = error / sum(want.size for want, _ in pairs)
    return math.inf if mean == 0 else 10 * math.log10((high - low) ** 2 / mean)


def cosine(outputs: Outputs, references: Outputs, feeds: Outputs, labels: Sequence[Any]) -> float:
    """The mean cosine of answers with the source's; 1 for equal ones."""
    return float(
        np.mean(
            [
                float(want.ravel() @ got.ravel())
                / max(float(np.linalg.norm(want) * np.linalg.norm(got)), 1e-30)
                for want, got in _pairs(outputs, references)
            ]
        )
    )


def _pairs(outputs: Outputs, references: Outputs) -> Iterator[tuple[Array, Array]]:
    """Float outputs of the source and of the variant, in double precision."""
    for given, expected in zip(outputs, references, strict=True):
        for name, want in expected.items():
            if want.dtype.kind == "f":
                yield want.astype(np.float64), given[name].astype(np.float64)

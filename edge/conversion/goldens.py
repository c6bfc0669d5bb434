"""Goldens: inputs with the source's answers, and how far each variant may be from them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from edge.bundle import save_tensors
from edge.core.manifest import Golden

if TYPE_CHECKING:
    from edge.conversion.samples import Dataset
    from edge.core.contracts import Session
    from edge.core.tensor import Feeds

FOLDER = "goldens"
COUNT = 4
TOTAL_BYTES = 16 * 1024 * 1024
"""Goldens travel with every bundle: fewer are taken where tensors are large, but at least one."""

MARGIN = 2.0
FLOOR = 1e-3
"""Tolerance: ``MARGIN`` times what was measured here, plus ``FLOOR`` of the output's largest
magnitude, as kernels of other instruction sets sum in another order."""


def make_goldens(
    dataset: Dataset, source: Session, sessions: Mapping[str, Session], folder: Path
) -> tuple[Golden, ...]:
    """Write ``<n>/`` into ``folder`` and describe them; one serves all ``sessions``, by variant."""
    goldens: list[Golden] = []
    used = 0
    for number, example in enumerate(islice(dataset, COUNT)):
        expected = source.run(example.feeds)
        used += sum(array.nbytes for array in (*example.feeds.values(), *expected.values()))
        if goldens and used > TOTAL_BYTES:
            break
        (folder / str(number)).mkdir()
        save_tensors(folder / str(number) / "inputs.npz", example.feeds)
        save_tensors(folder / str(number) / "expected.npz", expected)
        tolerances = {
            name: _tolerances(expected, session.run(example.feeds))
            for name, session in sessions.items()
        }
        place = f"{FOLDER}/{number}"
        goldens.append(Golden(f"{place}/inputs.npz", f"{place}/expected.npz", tolerances))
    return tuple(goldens)


def _tolerances(expected: Feeds, actual: Feeds) -> dict[str, float]:
    """Of outputs that can be compared: of the same shape, and all numbers."""
    import numpy as np

    comparable = {
        name: array
        for name, array in expected.items()
        if actual[name].shape == array.shape and np.isfinite(actual[name]).all()
    }
    return {
        name: MARGIN * float(np.max(np.abs(actual[name].astype(np.float64) - array), initial=0.0))
        + FLOOR * float(np.max(np.abs(array), initial=0.0))
        for name, array in comparable.items()
    }

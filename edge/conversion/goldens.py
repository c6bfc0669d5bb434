"""Goldens: inputs with the source's answers, and how far each variant may be from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.core.contracts import Session
from edge.core.manifest import Golden

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds

COUNT = 4
TOTAL_BYTES = 16 * 1024 * 1024
"""Goldens travel with every bundle: fewer are taken where tensors are large, but at least one."""

MARGIN = 2.0
FLOOR = 1e-3
"""Tolerance: ``MARGIN`` times what was measured here, plus ``FLOOR`` of the output's largest
magnitude, as kernels of other instruction sets sum in another order."""


def make_goldens(
    feeds: Sequence[Feeds],
    reference: Session,
    sessions: Mapping[str, Session],
    folder: Path,
    save: Callable[[Path, Mapping[str, Array]], None],
) -> tuple[Golden, ...]:
    """Write ``goldens/<n>/`` under ``folder`` and describe them.

    Args:
        sessions: Variant id -> session; one golden serves all of them.
        save: Writes named arrays to a path.
    """
    goldens: list[Golden] = []
    used = 0
    for number, inputs in enumerate(feeds[:COUNT]):
        expected = reference.run(inputs)
        used += sum(array.nbytes for array in (*inputs.values(), *expected.values()))
        if goldens and used > TOTAL_BYTES:
            break
        place = f"goldens/{number}"
        (folder / place).mkdir(parents=True)
        save(folder / place / "inputs.npz", inputs)
        save(folder / place / "expected.npz", expected)
        tolerances = {
            name: _tolerances(expected, session.run(inputs)) for name, session in sessions.items()
        }
        goldens.append(Golden(f"{place}/inputs.npz", f"{place}/expected.npz", tolerances))
    return tuple(goldens)


def _tolerances(expected: Feeds, actual: Feeds) -> dict[str, float]:
    import numpy as np

    return {
        name: MARGIN * float(np.max(np.abs(actual[name].astype(np.float64) - array), initial=0.0))
        + FLOOR * float(np.max(np.abs(array), initial=0.0))
        for name, array in expected.items()
    }

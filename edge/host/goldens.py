"""Goldens: does a variant answer here as the source model did at conversion?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge.core.errors import EngineError

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.core.contracts import Session
    from edge.core.manifest import Golden, Variant
    from edge.core.tensor import Array


class GoldenResult(msgspec.Struct, frozen=True):
    """One output of one golden; the error is infinite where arrays can't be compared."""

    golden: int
    output: str
    max_abs_error: float
    tolerance: float
    passed: bool


def verify(bundle: Bundle, variant: Variant, session: Session) -> list[GoldenResult]:
    """Run the goldens that hold tolerances for ``variant``."""
    return [
        result
        for number, golden in enumerate(bundle.manifest.goldens)
        for result in _verify_one(bundle, number, golden, variant, session)
    ]


def prove(bundle: Bundle, variant: Variant, session: Session) -> None:
    """The first inferences are slow: let the goldens be those, and believe what they say.

    Raises:
        EngineError: One is not met.
    """
    for result in verify(bundle, variant, session):
        if not result.passed:
            raise EngineError(
                f"{variant.id} does not answer as the source model did: golden "
                f"{result.golden}, output {result.output} is off by {result.max_abs_error:.3g}, "
                f"allowed is {result.tolerance:.3g}",
                hint=f"compare all variants with: edge verify {bundle.path}",
            )


def _verify_one(
    bundle: Bundle, number: int, golden: Golden, variant: Variant, session: Session
) -> Iterator[GoldenResult]:
    tolerances = golden.tolerances.get(variant.id)
    if not tolerances:
        return
    inputs, expected = bundle.golden(golden)
    actual = session.run(inputs)
    for output, tolerance in tolerances.items():
        error = max_abs_error(actual.get(output), expected.get(output))
        yield GoldenResult(number, output, error, tolerance, passed=error <= tolerance)


def max_abs_error(actual: Array | None, expected: Array | None) -> float:
    """Largest absolute difference; infinite for other shapes, text that differs, or any NaN."""
    if actual is None or expected is None or actual.shape != expected.shape:
        return float("inf")
    if actual.dtype.kind in "OSU":
        return 0.0 if np.array_equal(actual, expected) else float("inf")
    if actual.dtype.kind != "c":
        actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    same = actual == expected  # two equal infinities, of which the difference would be NaN
    error = np.abs(np.where(same, 0, actual) - np.where(same, 0, expected))
    return float(np.nan_to_num(error, nan=np.inf, posinf=np.inf).max(initial=0.0))

from __future__ import annotations

import numpy as np
import pytest

from edge.host.goldens import max_abs_error


def array(*values: object, dtype: str = "float32") -> np.ndarray:
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        (array(1, 2), array(1, 2), 0.0),
        (array(1, 2), array(1, 4), 2.0),
        (array(3, dtype="uint8"), array(5, dtype="uint8"), 2.0),
        (array(True, dtype="bool"), array(False, dtype="bool"), 1.0),
        (array(-np.inf, np.inf), array(-np.inf, np.inf), 0.0),
        (array(np.nan), array(np.nan), np.inf),
        (array(np.nan), array(1), np.inf),
        (array(np.inf), array(-np.inf), np.inf),
        (array(1, 2), array(1), np.inf),
        (array("a", dtype="O"), array("a", dtype="O"), 0.0),
        (array("a", dtype="O"), array("b", dtype="O"), np.inf),
        (array(1j, dtype="complex64"), array(0, dtype="complex64"), 1.0),
        (None, array(1), np.inf),
        (array(), array(), 0.0),
    ],
)
def test_error_is_the_largest_difference(
    actual: np.ndarray | None, expected: np.ndarray, error: float
) -> None:
    assert max_abs_error(actual, expected) == error

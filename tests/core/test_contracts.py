from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from edge.core.contracts import Availability, Placement, Session, ensure_ready
from edge.core.errors import InputError, UnavailableError
from edge.core.tensor import TensorSpec


class Doubling(Session):
    """Stands in for an engine; remembers what reached it."""

    inputs = (TensorSpec("x", "float32", ("n",)),)
    outputs = (TensorSpec("y", "float32", ("n",)),)
    placement = Placement("cpu", "cpu", {"cpu": 1.0}, "fp32")

    def __init__(self) -> None:
        self.runs = 0
        self.closed = 0

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.runs += 1
        return {"y": feeds["x"] * 2}

    def close(self) -> None:
        self.closed += 1


def test_run_gives_what_the_engine_gave() -> None:
    outputs = Doubling().run({"x": np.array([1, 2], np.float32)})
    assert outputs["y"].tolist() == [2, 4]


def test_feeds_are_checked_before_the_engine_sees_them() -> None:
    session = Doubling()
    with pytest.raises(InputError, match="must be float32"):
        session.run({"x": np.array([1, 2])})
    assert session.runs == 0


def test_leaving_the_block_closes_the_session() -> None:
    with Doubling() as session:
        assert session.closed == 0
    assert session.closed == 1


def test_what_is_not_ready_says_why_and_what_to_do() -> None:
    ensure_ready("tensorrt", Availability(ready=True))
    missing = Availability(ready=False, reason="no GPU", hint="take onnxruntime")
    with pytest.raises(UnavailableError, match="tensorrt is not available here: no GPU") as caught:
        ensure_ready("tensorrt", missing)
    assert caught.value.hint == "take onnxruntime"

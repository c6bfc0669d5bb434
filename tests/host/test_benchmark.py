from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import load
from edge.core.errors import InputError
from edge.core.tensor import TensorSpec, check_feeds
from edge.host import benchmark


class Fake:
    """Counts who infers, and how many at once."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.threads: set[int] = set()

    def infer(self, feeds: Any) -> None:
        self.threads.add(threading.get_ident())
        if not self.log or self.log[-1] != self.name:
            self.log.append(self.name)


def test_models_take_turns() -> None:
    log: list[str] = []
    models: Any = {"a": Fake("a", log), "b": Fake("b", log)}
    figures = benchmark.measure(models, {"a": {}, "b": {}}, seconds=0.02)
    assert log == ["a", "b"] * benchmark.ROUNDS
    assert min(figures["a"].count, figures["b"].count) >= benchmark.ROUNDS


def test_callers_infer_in_threads_of_their_own() -> None:
    model = Fake("a", [])
    models: Any = {"a": model}
    benchmark.measure(models, {"a": {}}, seconds=0.02, callers=3)
    assert len(model.threads) == 3


def test_figures_are_those_of_the_times() -> None:
    times = [1_000_000] * 90 + [5_000_000] * 10
    figures = benchmark._figures(times, spent_s=0.07)
    assert figures == benchmark.Figures(
        count=100, p50=1.0, p90=1.4, p99=5.0, mean=1.4, per_second=round(100 / 0.07, 1)
    )


@pytest.mark.parametrize("callers", [1, 3])
def test_an_inference_that_fails_ends_the_measurement(
    callers: int, make_bundle: Callable[..., Path]
) -> None:
    with load(make_bundle()) as model, pytest.raises(InputError, match="is missing"):
        benchmark.measure({"m": model}, {"m": {}}, seconds=0.01, callers=callers)


def test_synthetic_feeds_fit_any_model() -> None:
    specs = (
        TensorSpec("x", "float16", ("batch", 3)),
        TensorSpec("n", "int64", ()),
        TensorSpec("flag", "bool", (2,)),
        TensorSpec("words", "string", ("batch",)),
    )
    feeds = benchmark.synthetic_feeds(specs)
    check_feeds(specs, feeds)
    assert feeds["x"].shape == (1, 3)
    assert np.ptp(feeds["x"]) > 0

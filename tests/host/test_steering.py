"""What is changed of a runtime while it serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from patience import LONG_S

from edge.core.errors import NotFoundError, UnsupportedError
from edge.core.manifest import Variant
from edge.core.tensor import TensorSpec
from edge.host import Runtime
from edge.settings import ModelSettings, Power

MakeBundle = Callable[..., Path]
ROW = {"x": np.ones((1, 3), np.float32)}


def _largest_batch(runtime: Runtime) -> int:
    """Of eight requests that wait together for one instance."""
    model = runtime.model("product")
    turn = runtime._terms.fair
    assert turn is not None
    before = dict(model.statistics.snapshot().batches)
    with turn.turns(1):  # the only one
        futures = [model.submit(ROW) for _ in range(8)]
    for future in futures:
        assert future.result(LONG_S)["y"].shape == (1, 4)
    after = model.statistics.snapshot().batches
    new = [size for size in after if after[size] != before.get(size)]
    return max(new, default=1)


def test_batching_is_switched_on_and_off_while_it_serves(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle(), concurrency=1) as runtime:
        model = runtime.model("product")
        assert not model.batches.is_on
        plan = runtime.set_batching("product", 4, 200_000)
        assert plan is not None
        assert plan.max_rows == model.batches.max_rows == 4
        assert 1 < _largest_batch(runtime) <= 4
        runtime.set_batching("product", 1, 0)
        assert not model.batches.is_on
        assert model.submit(ROW).result(LONG_S)["y"].shape == (1, 4)


def test_batching_of_what_is_unloaded_shows_when_it_comes_back(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        model.seat.evict("request")
        runtime.set_batching("product", 4, 0)
        assert model.seat.loads == 1
        model.infer(ROW)
        assert model.batches.max_rows == 4
        assert model.submit(ROW).result(LONG_S)["y"].shape == (1, 4)


def test_batching_holds_for_versions_that_load_later(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        assert runtime.set_batching("product", 4, 0) is None
        assert runtime.model("product").batches.max_rows == 4


def test_batching_of_a_model_of_fixed_batches_stays_on(
    make_bundle: MakeBundle, make_variant: Callable[..., Variant]
) -> None:
    variant = make_variant(
        inputs=(TensorSpec("x", "float32", (4, 3)),), outputs=(TensorSpec("y", "float32", (4, 4)),)
    )
    settings = {"product": ModelSettings(max_batch=4)}
    with Runtime(make_bundle(variant), models=settings) as runtime:
        runtime.model("product")
        with pytest.raises(UnsupportedError, match="batches of 4"):
            runtime.set_batching("product", 1, 0)
        assert runtime.model("product").submit(ROW).result(LONG_S)["y"].shape == (1, 4)


def test_batching_of_no_model_is_refused(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        with pytest.raises(NotFoundError):
            runtime.set_batching("other", 4, 0)
        assert "other" not in runtime._terms.settings


def test_power_is_set_while_it_serves(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle(), power=Power(policy="watch")) as runtime:
        wanted = Power(policy="latency", budget_watts=5.0)
        runtime.oversight.set_power(wanted)
        assert runtime.oversight.power == wanted


def test_power_that_nobody_looks_after_can_not_be_set(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        with pytest.raises(UnsupportedError):
            runtime.oversight.set_power(Power())
        assert runtime.oversight.power is None


def test_version_that_was_rolled_back_says_why(make_bundle: MakeBundle) -> None:
    make_bundle(version="1")
    folder = make_bundle(version="2").parent
    with Runtime(folder) as runtime:
        assert runtime.rejection("product", "2") == ""
        runtime.roll_back("product", "it squints")
        assert runtime.rejection("product", "2") == "it squints"

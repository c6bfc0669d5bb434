"""Which models may be batched, and that those that may answer each request as if it were alone."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import LONG_S

import edge
from edge.core import plugins
from edge.core.contracts import Session
from edge.core.errors import EngineError
from edge.core.manifest import Variant
from edge.core.tensor import TensorSpec
from edge.host import Model
from edge.host.batching import BatchBuffer, split
from edge.settings import ModelSettings

MakeVariant = Callable[..., Variant]
MakeBundle = Callable[..., Path]
Answer = Callable[[np.ndarray], np.ndarray]
BATCHED = ModelSettings(max_batch=8)


def product(array: np.ndarray) -> np.ndarray:
    return array.sum(-1, keepdims=True)


@pytest.fixture
def load(
    make_bundle: MakeBundle, make_variant: MakeVariant, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Model]:
    """A model of one input and one output that computes ``answer``."""

    def loaded(
        x: tuple[int | str, ...],
        y: tuple[int | str, ...],
        answer: Answer = product,
        dtype: str = "float32",
    ) -> Model:
        backend = plugins.backend("null")
        real_open = backend.open

        def opened(*args: Any) -> Session:
            session = real_open(*args)
            monkeypatch.setattr(session, "_run", lambda feeds: {"y": answer(feeds["x"])})
            return session

        monkeypatch.setattr(backend, "open", opened)
        inputs, outputs = (TensorSpec("x", dtype, x),), (TensorSpec("y", "float32", y),)
        return edge.load(
            make_bundle(make_variant(inputs=inputs, outputs=outputs)), settings=BATCHED
        )

    return loaded


def test_a_free_first_axis_that_all_tensors_share_is_a_batch(load: Callable[..., Model]) -> None:
    with load(("n", 3), ("n", 1)) as model:
        assert (model.batches.max_rows, model.batches.is_padded) == (8, False)
        assert model.batches.reason == ""


def test_first_axes_that_nobody_named_are_taken_for_one(load: Callable[..., Model]) -> None:
    with load(("x_axis0", 3), ("y_axis0", 1)) as model:
        assert (model.batches.max_rows, model.batches.reason) == (8, "")


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (("n", 3), ("m", 1), "do not share their first axis"),
        (("x_axis0", 3), (1,), "it was made for batches of 1"),
        (("n", 3), (1,), "do not share their first axis"),
        (("n", 3), (), "do not share their first axis"),
        ((), (), "do not share their first axis"),
        (("n", "n"), ("n", 1), "the axis 'n' is more than that of the batch"),
        ((1, 3), (1, 1), "it was made for batches of 1"),
    ],
)
def test_shapes_that_do_not_fit_keep_requests_apart_and_say_so(
    load: Callable[..., Model],
    caplog: pytest.LogCaptureFixture,
    x: tuple[int | str, ...],
    y: tuple[int | str, ...],
    reason: str,
) -> None:
    with caplog.at_level(logging.WARNING), load(x, y) as model:
        assert not model.batches.is_on
        assert reason in model.batches.reason
    assert f"product runs requests one by one: {model.batches.reason}" in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: product(x) + x.mean(),
        lambda x: product(x / np.abs(x).max()),
        lambda x: product(np.round(x * 127 / np.abs(x).max()) / 127 * np.abs(x).max()),
        lambda x: product(np.sort(x, 0)),
        lambda x: product(x) + np.arange(len(x), dtype=np.float32)[:, None],
    ],
    ids=["mean", "norm", "dynamic range", "sorted", "position"],
)
def test_a_model_whose_rows_know_of_each_other_is_never_batched(
    load: Callable[..., Model], answer: Answer
) -> None:
    with load(("n", 3), ("n", 1), answer) as model:
        assert model.batches.reason == "output 'y' of a row depends on the others"


def test_a_model_that_gives_other_numbers_of_rows_is_never_batched(
    load: Callable[..., Model],
) -> None:
    with load(("n", 3), ("n", 1), lambda x: product(x)[:1]) as model:
        assert "output 'y' of a batch of 2 has the shape (1, 1)" in model.batches.reason


def test_batches_are_no_larger_than_the_engine_takes(load: Callable[..., Model]) -> None:
    def limited(x: np.ndarray) -> np.ndarray:
        if len(x) > 3:
            raise EngineError("no profile for this shape")
        return product(x)

    with load(("n", 3), ("n", 1), limited) as model:
        assert (model.batches.max_rows, model.batches.reason) == (2, "")


def test_an_engine_that_takes_single_rows_only_says_why(load: Callable[..., Model]) -> None:
    def limited(x: np.ndarray) -> np.ndarray:
        if len(x) > 1:
            raise EngineError("no profile for this shape")
        return product(x)

    with load(("n", 3), ("n", 1), limited) as model:
        assert "no profile for this shape" in model.batches.reason


def test_a_fixed_batch_takes_single_rows(load: Callable[..., Model]) -> None:
    with load((4, 3), (4, 1)) as model:
        assert (model.batches.max_rows, model.batches.is_padded) == (4, True)
        answer = model.submit({"x": np.ones((1, 3), np.float32)}).result(LONG_S)["y"]
        np.testing.assert_array_equal(answer, [[3]])


def test_integers_are_batched_too(load: Callable[..., Model]) -> None:
    with load(("n", 3), ("n", 1), lambda x: product(x).astype(np.float32), "int64") as model:
        assert model.batches.is_on


def test_unless_asked_for_nothing_is_batched(make_bundle: MakeBundle) -> None:
    with edge.load(make_bundle()) as model:
        assert (model.batches.max_rows, model.batches.reason) == (1, "")


@pytest.fixture
def real(engine: str, product: bytes, make_bundle: MakeBundle, make_variant: MakeVariant) -> Any:
    """A matrix product on a real engine."""
    with edge.load(make_bundle(make_variant("real", engine), model=product), settings=BATCHED) as m:
        yield m


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sizes=st.lists(st.integers(1, 10), min_size=1, max_size=24))
def test_a_real_engine_answers_in_batches_as_it_does_alone(real: Model, sizes: list[int]) -> None:
    assert real.batches.max_rows == 8
    noise = np.random.default_rng(len(sizes))
    feeds = [{"x": noise.standard_normal((rows, 3), np.float32)} for rows in sizes]
    futures = [real.submit(each) for each in feeds]
    for each, future in zip(feeds, futures, strict=True):
        np.testing.assert_allclose(future.result(LONG_S)["y"], real.infer(each)["y"], atol=1e-5)


def test_a_buffer_is_filled_in_order_and_up_with_the_first_row() -> None:
    buffer = BatchBuffer()
    feeds: list[Any] = [{"x": np.array([[1, 2], [3, 4]], ">f4")}, {"x": np.array([[5, 6]], "<f4")}]
    batch = buffer.fill(feeds, 4, 8)["x"]
    assert batch.tolist() == [[1, 2], [3, 4], [5, 6], [1, 2]]
    assert batch.dtype.isnative
    assert batch.flags.c_contiguous


def test_a_buffers_memory_is_kept_for_the_next_batch() -> None:
    buffer, feeds = BatchBuffer(), [{"x": np.ones((1, 2), np.float32)}]
    first, second = buffer.fill(feeds, 1, 8)["x"], buffer.fill(feeds, 8, 8)["x"]
    assert np.shares_memory(first, second)


def test_text_is_batched_too() -> None:
    feeds: list[Any] = [{"x": np.array([word], object)} for word in ("a", "longer")]
    assert BatchBuffer().fill(feeds, 2, 2)["x"].tolist() == ["a", "longer"]


def test_an_output_without_the_rows_of_the_batch_is_refused() -> None:
    with pytest.raises(EngineError, match=r"output 'y' of a batch of 3 has the shape \(2, 1\)"):
        split({"y": np.ones((2, 1))}, [1, 2], 3)


def test_a_model_that_is_forgotten_ends_its_threads(make_bundle: MakeBundle) -> None:
    model = edge.load(make_bundle())
    model.submit({"x": np.ones((1, 3), np.float32)}).result(LONG_S)
    (thread,) = model._scheduler._threads
    model._bundle.close()  # what is left open is a warning, and a warning an error
    del model
    gc.collect()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert thread not in threading.enumerate()


def test_a_program_that_closes_nothing_ends_after_its_last_answer(make_bundle: MakeBundle) -> None:
    code = """
import sys, numpy, edge
model = edge.load(sys.argv[1])
future = model.submit({"x": numpy.ones((1, 3), numpy.float32)})
future.add_done_callback(lambda done: print(done.result()["y"].shape, flush=True))
"""
    command = [sys.executable, "-c", code, str(make_bundle())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S)
    assert (done.stdout, done.returncode) == ("(1, 4)\n", 0), done.stderr

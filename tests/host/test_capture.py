"""One frame with its answer, only after somebody asked."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from patience import LONG_S

from edge.core.errors import InputError
from edge.host import Runtime
from edge.settings import ModelSettings

MakeBundle = Callable[..., Path]
MIB = 1024 * 1024


def test_capture_gives_the_next_run_and_only_that(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        model.infer({"x": np.full((1, 3), 1, np.float32)})
        capture = model.capture(MIB)
        assert not capture.future.done()
        model.infer({"x": np.full((1, 3), 2, np.float32)})
        model.infer({"x": np.full((1, 3), 3, np.float32)})
        frame = capture.future.result(0)
        np.testing.assert_array_equal(frame.inputs["x"], np.full((1, 3), 2, np.float32))
        assert frame.outputs["y"].shape == (1, 4)


def test_capture_of_a_batch_is_one_row_of_it_and_a_copy(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        capture = model.capture(MIB)
        feeds = {"x": np.arange(9, dtype=np.float32).reshape(3, 3)}
        model.infer(feeds)
        feeds["x"][:] = -1
        np.testing.assert_array_equal(capture.future.result(0).inputs["x"], [[0, 1, 2]])


def test_capture_sees_what_is_submitted(make_bundle: MakeBundle) -> None:
    settings = {"product": ModelSettings(max_batch=4)}
    with Runtime(make_bundle(), models=settings) as runtime:
        model = runtime.model("product")
        capture = model.capture(MIB)
        model.submit({"x": np.ones((1, 3), np.float32)}).result(LONG_S)
        assert capture.future.result(LONG_S).inputs["x"].shape == (1, 3)


def test_capture_waits_through_an_eviction(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        model.seat.evict("request")
        capture = model.capture(MIB)
        model.infer({"x": np.ones((1, 3), np.float32)})
        assert capture.future.result(0).inputs["x"].shape == (1, 3)


def test_cancelled_capture_sees_nothing(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        capture = model.capture(MIB)
        capture.cancel()
        model.infer({"x": np.ones((1, 3), np.float32)})
        assert not capture.future.done()


def test_frame_that_is_too_large_fails_the_capture_and_no_request(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        capture = model.capture(10)
        outputs = model.infer({"x": np.ones((1, 3), np.float32)})
        assert outputs["y"].shape == (1, 4)
        with pytest.raises(InputError, match="28 bytes"):
            capture.future.result(0)


def test_nothing_of_a_capture_stays_once_it_is_over(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        capture = model.capture(MIB)
        model.infer({"x": np.ones((1, 3), np.float32)})
        frame = weakref.ref(capture.future.result(0).inputs["x"])
        cancelled = model.capture(MIB)
        cancelled.cancel()
        left = weakref.ref(cancelled)
        del capture, cancelled
        gc.collect()
        assert frame() is None
        assert left() is None


def test_newer_capture_takes_the_place_of_the_one_that_waits(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        sitting = model.seat.take()
        plain = sitting.run
        former, newer = model.capture(MIB), model.capture(MIB)
        former.cancel()
        model.infer({"x": np.ones((1, 3), np.float32)})
        assert newer.future.result(0).inputs["x"].shape == (1, 3)
        assert not former.future.done()
        assert sitting.run == plain
        model.seat.give(sitting)


def test_many_threads_get_their_answers_while_one_frame_is_taken(make_bundle: MakeBundle) -> None:
    with Runtime(make_bundle()) as runtime:
        model = runtime.model("product")
        answers: list[int] = []
        is_over = threading.Event()

        def work() -> None:
            while not is_over.is_set():
                answers.append(model.infer({"x": np.ones((1, 3), np.float32)})["y"].shape[0])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        frames = [model.capture(MIB).future.result(LONG_S) for _ in range(3)]
        is_over.set()
        for thread in threads:
            thread.join()
        assert set(answers) == {1}
        assert all(frame.inputs["x"].shape == (1, 3) for frame in frames)

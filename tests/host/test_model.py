from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.core import plugins
from edge.core.errors import EngineError, InputError, UnavailableError, UnsupportedError
from edge.core.manifest import FileEntry, Variant
from edge.core.spec import ImageSpec, OutputSpec
from edge.core.tensor import TensorSpec
from edge.host import Model

MakeVariant = Callable[..., Variant]
MakeBundle = Callable[..., Path]
ONES = np.ones((2, 3), np.float32)
ANSWER = np.array([[12, 15, 18, 21]], np.float32)


@pytest.fixture
def model(
    engine: str, product: bytes, make_bundle: MakeBundle, make_variant: MakeVariant
) -> Iterator[Model]:
    """The matrix product on a real engine."""
    path = make_bundle(make_variant("real", engine), model=product, expected=ANSWER)
    with edge.load(path) as model:
        yield model


@pytest.fixture
def null_model(make_bundle: MakeBundle) -> Iterator[Model]:
    with edge.load(make_bundle()) as model:
        yield model


def test_infer_answers_and_counts(model: Model) -> None:
    np.testing.assert_array_equal(model.infer({"x": ONES})["y"], ANSWER.repeat(2, 0))
    snapshot = model.statistics.snapshot()
    assert (snapshot.success_count, snapshot.failure_count) == (1, 0)
    assert snapshot.success_ns == snapshot.stages["infer"].total_ns > 0


def test_submit_runs_on_the_models_own_thread(model: Model) -> None:
    answer = model.submit({"x": ONES}).result()["y"]
    np.testing.assert_array_equal(answer, ANSWER.repeat(2, 0))
    assert any(thread.name.startswith("edge-product") for thread in threading.enumerate())
    assert model.statistics.snapshot().stages["queue"].total_ns > 0


def test_ainfer_gives_what_infer_gives(model: Model) -> None:
    async def both() -> list[dict[str, np.ndarray]]:
        return await asyncio.gather(model.ainfer({"x": ONES}), model.ainfer({"x": ONES[:1]}))

    first, second = asyncio.run(both())
    assert first["y"].shape == (2, 4)
    assert second["y"].shape == (1, 4)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "'x' is missing"),
        ({"z": ONES}, "'x' is missing"),
        ({"x": ONES, "z": ONES}, "unknown input 'z'"),
        ({"x": ONES.astype("float64")}, "must be float32, got float64"),
        ({"x": np.ones((2, 4), np.float32)}, r"shape \(batch, 3\), got \(2, 4\)"),
        ({"x": np.ones(3, np.float32)}, r"got \(3\)"),
        ({"x": [[1.0, 2.0, 3.0]]}, "must be a numpy array, got list"),
    ],
)
def test_wrong_feeds_are_refused_and_counted(
    null_model: Model, feeds: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        null_model.infer(feeds)
    with pytest.raises(InputError, match=message):
        null_model.submit(feeds).result()
    snapshot = null_model.statistics.snapshot()
    assert (snapshot.success_count, snapshot.failure_count) == (0, 2)


def test_threads_get_their_own_answers(model: Model) -> None:
    batches = [np.full((1, 3), number, np.float32) for number in range(40)]

    def answer(batch: np.ndarray) -> np.ndarray:
        direct, queued = model.infer({"x": batch})["y"], model.submit({"x": batch})
        np.testing.assert_array_equal(direct, queued.result()["y"])
        return direct

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, batches))
    for number, found in enumerate(answers):
        np.testing.assert_array_equal(found, ANSWER * number)
    assert model.statistics.snapshot().success_count == 80


def test_outputs_are_the_callers_own(model: Model) -> None:
    first = model.infer({"x": ONES})["y"]
    kept = first.copy()
    model.infer({"x": ONES * 5})
    np.testing.assert_array_equal(first, kept)
    first[:] = -1
    np.testing.assert_array_equal(model.infer({"x": ONES})["y"], kept)


def test_goldens_pass_and_do_not_count(model: Model) -> None:
    (result,) = model.verify_goldens()
    assert (result.golden, result.output, result.passed) == (0, "y", True)
    assert result.max_abs_error <= result.tolerance
    assert model.statistics.snapshot().success_count == 0


def test_a_wrong_golden_fails_with_its_error(make_bundle: MakeBundle) -> None:
    with edge.load(make_bundle(expected=ANSWER, tolerance=0.5)) as model:
        (result,) = model.verify_goldens()
    assert (result.max_abs_error, result.tolerance, result.passed) == (21.0, 0.5, False)


def test_closing_twice_is_harmless_and_ends_all_use(model: Model) -> None:
    assert model.submit({"x": ONES}).result()
    model.close()
    model.close()
    assert model.state == "idle"
    with pytest.raises(UnavailableError, match="product is closed"):
        model.infer({"x": ONES})
    with pytest.raises(UnavailableError, match="product is closed"):
        model.submit({"x": ONES})
    with pytest.raises(UnavailableError, match="closed"):
        asyncio.run(model.ainfer({"x": ONES}))


def test_closing_lets_submitted_work_finish(null_model: Model) -> None:
    futures = [null_model.submit({"x": ONES}) for _ in range(20)]
    null_model.close()
    assert all(future.result()["y"].shape == (2, 4) for future in futures)


def test_an_engine_failure_is_raised_and_counted(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = plugins.backend("null")
    real_open = backend.open

    def open_broken(*args: object) -> object:
        session = real_open(*args)  # type: ignore[arg-type]

        def fail(feeds: object) -> dict[str, np.ndarray]:
            raise EngineError("out of memory")

        session._run = fail  # type: ignore[method-assign]
        return session

    monkeypatch.setattr(backend, "open", open_broken)
    with edge.load(make_bundle()) as model:
        with pytest.raises(EngineError, match="out of memory"):
            model.infer({"x": ONES})
        assert model.statistics.snapshot().failure_count == 1


@pytest.fixture
def classifier(make_bundle: MakeBundle, make_variant: MakeVariant) -> Callable[..., Path]:
    """A bundle whose model gives equal scores to three classes of 2x2 pictures."""

    def make(**fields: object) -> Path:
        variant = make_variant(
            inputs=(TensorSpec("image", "float32", (1, 3, 2, 2)),),
            outputs=(TensorSpec("scores", "float32", (1, 3)),),
        )
        given = {
            "task": "classification",
            "image": ImageSpec(input="image"),
            "output": OutputSpec(top=2),
            **fields,
        }
        return make_bundle(variant, **given)

    return make


def test_classify_gives_names_and_counts_all_stages(classifier: Callable[..., Path]) -> None:
    pytest.importorskip("cv2")
    text = "cat\ndog\nemu\n"
    entry = FileEntry("labels.txt", hashlib.sha256(text.encode()).hexdigest(), len(text))
    path = classifier(labels="labels.txt", files=(entry,), texts={"labels.txt": text})
    with edge.load(path) as model:
        labels = model.classify(np.zeros((2, 2, 3), np.uint8))
        assert [label.name for label in labels] == ["cat", "dog", "emu"]
        assert sum(label.score for label in labels) == pytest.approx(1)
        assert len(model.predict(np.zeros((2, 2, 3), np.uint8))) == 2  # type: ignore[arg-type]
        stages = model.statistics.snapshot().stages
    assert all(stages[stage].total_ns > 0 for stage in ("input", "infer", "output"))


def test_an_unreadable_picture_is_refused_and_counted(classifier: Callable[..., Path]) -> None:
    pytest.importorskip("cv2")
    with edge.load(classifier()) as model:
        with pytest.raises(InputError):
            model.classify(b"no picture")
        assert model.statistics.snapshot().failure_count == 1


def test_only_a_classifier_classifies(null_model: Model) -> None:
    with pytest.raises(UnsupportedError, match="does tensors, not classification"):
        null_model.classify(np.zeros((2, 2, 3), np.uint8))


def test_a_model_without_a_picture_pipeline_says_so(null_model: Model) -> None:
    with pytest.raises(UnsupportedError, match="does not say how a picture"):
        null_model.predict(np.zeros((2, 2, 3), np.uint8))


def test_a_model_with_more_inputs_than_the_picture_says_so(
    make_bundle: MakeBundle, make_variant: MakeVariant
) -> None:
    image = TensorSpec("image", "float32", (1, 3, 2, 2))
    size = TensorSpec("size", "int64", (2,))
    path = make_bundle(
        make_variant(inputs=(image, size)),
        task="classification",
        image=ImageSpec(input="image"),
    )
    with edge.load(path) as model, pytest.raises(InputError, match="more than the picture"):
        model.predict(np.zeros((2, 2, 3), np.uint8))

from __future__ import annotations

import asyncio
import threading

import color_models
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import InputError
from edge.host import Runtime
from edge.host.response_cache import COMPARED_BYTES, Recalled, ResponseCache
from edge.settings import ModelSettings

X = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


class Cache(ResponseCache):
    """Before an engine."""

    def answer(self, feeds, infer):  # type: ignore[no-untyped-def]
        """The answer, and whether it was known."""
        question, known = self.find(feeds)
        if known is not None:
            return known, True
        outputs = infer(feeds)
        self.keep(question, outputs)
        return outputs, False


class Engine:
    """Doubles, and counts how often it is asked."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, feeds):  # type: ignore[no-untyped-def]
        self.runs += 1
        return {"y": feeds["x"] * 2}


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_the_same_inputs_are_answered_once(engine):
    cache = Cache(1 << 20)
    first, was_known = cache.answer(X, engine)
    again, is_known = cache.answer({"x": X["x"].copy()}, engine)
    assert (was_known, is_known, engine.runs) == (False, True, 1)
    np.testing.assert_array_equal(first["y"], again["y"])
    assert cache.counts().hits == cache.counts().misses == 1


def test_what_comes_out_belongs_to_the_caller(engine):
    cache = Cache(1 << 20)
    for _ in range(3):
        outputs, _ = cache.answer(X, engine)
        np.testing.assert_array_equal(outputs["y"], X["x"] * 2)
        outputs["y"][...] = 0


OTHERS = {
    "another value": {"x": X["x"] + 1},
    "another shape": {"x": X["x"].reshape(3, 2)},
    "another type": {"x": X["x"].view(np.int32)},
}


@pytest.mark.parametrize("feeds", OTHERS.values(), ids=OTHERS)
def test_what_differs_is_another_question(engine, feeds):
    cache = Cache(1 << 20)
    cache.answer(X, engine)
    assert not cache.answer(feeds, engine)[1]


def test_names_and_values_can_not_be_taken_for_each_other(engine):
    cache = Cache(1 << 20)
    one, two = np.zeros(1, np.uint8), np.ones(1, np.uint8)
    cache.answer({"x": one, "ab": two}, engine)
    assert not cache.answer({"x": one, "a": two}, engine)[1]
    assert not cache.answer({"x": two, "ab": one}, engine)[1]


def test_layout_in_memory_does_not_matter(engine):
    cache = Cache(1 << 20)
    cache.answer(X, engine)
    assert cache.answer({"x": np.asfortranarray(X["x"])}, engine)[1]


def test_text_is_compared_by_what_it_says(engine):
    cache = Cache(1 << 20)

    def upper(feeds):  # type: ignore[no-untyped-def]
        return {"y": np.array([len(text) for text in feeds["x"]])}

    first = np.array(["one", "three"], object)
    same = np.array(["".join(["on", "e"]), "three"], object)
    cache.answer({"x": first}, upper)
    assert cache.answer({"x": same}, upper)[1]
    assert not cache.answer({"x": np.array(["two", "three"], object)}, upper)[1]


def test_bytes_are_bounded_and_the_oldest_unused_go(engine):
    probe = Cache(1 << 20)
    probe.answer(X, engine)
    most = 3 * probe.counts().bytes
    cache = Cache(most)
    for number in range(3):
        cache.answer({"x": X["x"] + number}, engine)
    cache.answer(X, engine)  # used again: the next oldest goes
    for number in (10, 11):
        cache.answer({"x": X["x"] + number}, engine)
    assert cache.counts().bytes <= most
    assert cache.answer(X, engine)[1]
    assert not cache.answer({"x": X["x"] + 1}, engine)[1]


def test_an_answer_larger_than_the_cache_is_not_kept(engine):
    cache = Cache(8)
    cache.answer(X, engine)
    assert cache.counts().entries == 0


def test_a_collision_of_small_inputs_is_noticed(engine, monkeypatch):
    class Blind:
        def update(self, _):  # type: ignore[no-untyped-def]
            pass

        def digest(self):  # type: ignore[no-untyped-def]
            return bytes(16)

    monkeypatch.setattr(xxhash, "xxh3_128", Blind)
    cache = Cache(1 << 20)
    cache.answer(X, engine)
    outputs, is_known = cache.answer({"x": X["x"] + 1}, engine)
    assert not is_known
    np.testing.assert_array_equal(outputs["y"], (X["x"] + 1) * 2)


def test_a_failure_is_not_kept(engine):
    cache = Cache(1 << 20)

    def fail(_):  # type: ignore[no-untyped-def]
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.answer(X, fail)
    assert not cache.answer(X, engine)[1]


def test_large_inputs_are_known_by_their_hash(engine):
    cache = Cache(1 << 24)
    large = {"x": np.arange(COMPARED_BYTES, dtype=np.float32)}
    cache.answer(large, engine)
    assert cache.answer({"x": large["x"].copy()}, engine)[1]
    large["x"][-1] += 1
    assert not cache.answer(large, engine)[1]


def test_forgetting_gives_the_bytes_back(engine):
    cache = Cache(1 << 20)
    cache.answer(X, engine)
    cache.forget()
    assert (cache.counts().bytes, cache.counts().entries) == (0, 0)
    assert not cache.answer(X, engine)[1]


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 2000))
def test_answers_are_right_and_bytes_stay_in_bounds_whatever_is_asked(questions, max_bytes):
    cache = Cache(max_bytes)
    for question in questions:
        x = np.full(question * 5 + 1, question, np.int16)
        outputs, _ = cache.answer({"x": x}, lambda feeds: {"y": feeds["x"] + 1})
        np.testing.assert_array_equal(outputs["y"], x + 1)
        counts = cache.counts()
        assert counts.bytes <= max_bytes
        assert (counts.bytes == 0) == (counts.entries == 0)


def test_threads_may_ask_at_once(engine):
    cache = Cache(4000)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for number in range(300):
            value = (seed * number) % 17
            outputs, _ = cache.answer({"x": np.full(20, value)}, engine)
            if not (outputs["y"] == 2 * value).all():
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.counts().bytes <= 4000


# In a model


@pytest.fixture
def counted(make_bundle, make_variant, product):  # type: ignore[no-untyped-def]
    """A model with a cache, whose inferences its statistics count."""
    path = make_bundle(make_variant("ort-fp32", "onnxruntime"), model=product)
    with Runtime(path, models={"product": ModelSettings(cache_bytes=1 << 16)}) as runtime:
        yield runtime.model("product")


ONES = {"x": np.ones((2, 3), np.float32)}


def test_a_model_infers_once_what_is_asked_again_by_any_way(counted):
    expected = counted.infer(ONES)["y"]
    np.testing.assert_array_equal(counted.submit(ONES).result()["y"], expected)
    np.testing.assert_array_equal(asyncio.run(counted.ainfer(ONES))["y"], expected)
    snapshot = counted.snapshot()
    assert snapshot.success_count == 1
    assert (snapshot.cache.hits, snapshot.cache.misses) == (2, 1)


def test_an_answer_changed_by_its_owner_stays_right_in_the_cache(counted):
    first = counted.submit(ONES).result()
    expected = first["y"].copy()
    first["y"][...] = -1
    np.testing.assert_array_equal(counted.infer(ONES)["y"], expected)


def test_errors_are_raised_each_time(counted):
    wrong = {"x": np.ones((2, 4), np.float32)}
    for _ in range(2):
        with pytest.raises(InputError):
            counted.infer(wrong)
        with pytest.raises(InputError):
            counted.submit(wrong).result()
    assert counted.snapshot().cache.entries == 0


def test_a_model_without_the_setting_has_no_cache(make_bundle):
    with Runtime(make_bundle()) as runtime:
        assert runtime.model("product").snapshot().cache is None


def test_what_is_remembered_says_so_and_what_is_inferred_does_not(counted):
    assert not isinstance(counted.infer(ONES), Recalled)
    for again in (counted.infer(ONES), counted.submit(ONES).result()):
        assert isinstance(again, Recalled)
        assert (again.is_perceptual, again.difference) == (False, 0.0)


def test_a_picture_that_was_seen_is_not_inferred_again(tmp_path, monkeypatch):
    color_models.pack_all(tmp_path)
    settings = {"finder": ModelSettings(cache_bytes=1 << 20)}
    with Runtime(tmp_path, models=settings) as runtime:
        model = runtime.model("finder")
        first = model.predict(color_models.picture())
        monkeypatch.setattr(model, "_run", None)  # whatever runs now fails
        assert model.predict(color_models.picture()) == first
        snapshot = model.snapshot()
        assert (snapshot.success_count, snapshot.failure_count) == (1, 0)
        assert snapshot.cache.hits == 1
        assert snapshot.stages["input"].count == 2
        with pytest.raises(InputError):
            model.predict(tmp_path / "no picture")
        assert model.snapshot().failure_count == 1

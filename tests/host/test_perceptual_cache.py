from __future__ import annotations

import logging
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host import resemblance
from edge.host.perceptual_cache import SCENES, PerceptualCache
from edge.host.response_cache import ResponseCache, cache_for
from edge.settings import ModelSettings

LIMIT = 0.02
SIDE = 64


def settings(**changes):  # type: ignore[no-untyped-def]
    given = {"cache_bytes": 1 << 24, "cache_difference": LIMIT, "cache_age_s": 3600.0, **changes}
    return ModelSettings(cache="perceptual", **given)


@pytest.fixture
def cache() -> PerceptualCache:
    return PerceptualCache(settings())


def scene(seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """A picture with dark and bright parts."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (1, 3, SIDE // 16, SIDE // 16))
    return coarse.repeat(16, axis=2).repeat(16, axis=3).astype(dtype)


def noisy(frame: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, sigma, frame.shape)
    return np.clip(frame + grain, 0, 255).astype(frame.dtype)


def ask(cache: ResponseCache, frame: np.ndarray):  # type: ignore[no-untyped-def]
    """The answer, the mean of the frame that it was inferred from, and what was recalled."""
    question, known = cache.find({"x": frame})
    if known is not None:
        return known["y"], known
    outputs = {"y": frame.mean(keepdims=True)}
    cache.keep(question, outputs)
    return outputs["y"], None


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_frame_with_noise_gets_the_answer_of_the_one_before_and_is_marked(cache, dtype):
    first, _ = ask(cache, scene(dtype=dtype))
    again, recalled = ask(cache, noisy(scene(dtype=dtype), 1.5))
    assert again == first
    assert recalled.is_perceptual
    assert 0 < recalled.difference <= LIMIT
    assert (cache.counts().perceptual, cache.counts().hits, cache.counts().misses) == (1, 0, 1)


def test_the_same_frame_is_an_exact_hit_and_is_so_marked(cache):
    ask(cache, scene())
    _, recalled = ask(cache, scene())
    assert (recalled.is_perceptual, recalled.difference) == (False, 0.0)
    assert (cache.counts().perceptual, cache.counts().hits) == (0, 1)


@pytest.mark.parametrize("side", [4, 8, 16])
@given(row=st.integers(0, SIDE - 16), column=st.integers(0, SIDE - 16), seed=st.integers(0, 99))
def test_a_small_thing_that_enters_is_seen_wherever_it_is(side, row, column, seed):
    cache = PerceptualCache(settings())
    frame = np.full((1, 3, SIDE, SIDE), 60, np.float32)
    frame[..., SIDE // 2 :] = 200
    ask(cache, frame)
    entered = noisy(frame, 1, seed)
    entered[..., row : row + side, column : column + side] += 55
    assert ask(cache, entered)[1] is None


def test_another_scene_is_inferred(cache):
    ask(cache, scene(0))
    assert ask(cache, scene(1))[1] is None


def test_the_answer_of_each_camera_is_its_own(cache):
    means = [ask(cache, scene(camera))[0] for camera in range(SCENES)]
    for turn in range(3):
        for camera, mean in enumerate(means):
            answer, recalled = ask(cache, noisy(scene(camera), 1, seed=turn))
            assert recalled.is_perceptual
            assert answer == mean


def test_a_frame_that_drifts_is_never_far_from_the_one_it_is_answered_by(cache):
    first, last = scene(0), scene(1)
    inferred = 0
    for share in np.linspace(0, 1, 400):
        frame = first * (1 - share) + last * share
        answer, recalled = ask(cache, frame)
        inferred += recalled is None
        assert abs(float(answer.squeeze()) - frame.mean()) <= LIMIT * 255
    assert 20 < inferred < 400


def test_an_inference_stands_for_so_many_frames_and_no_more():
    cache = PerceptualCache(settings(cache_frames=3))
    known = [ask(cache, noisy(scene(), 1, seed))[1] is not None for seed in range(8)]
    assert known == [False, True, True, True, False, True, True, True]


def test_an_inference_stands_for_others_only_for_a_while(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(resemblance.time, "monotonic", lambda: now_s)
    cache = PerceptualCache(settings(cache_age_s=0.5))
    ask(cache, scene())
    now_s = 100.4
    assert ask(cache, noisy(scene(), 1, 1))[1] is not None
    now_s = 100.6  # what was recalled meanwhile has not made it younger
    assert ask(cache, noisy(scene(), 1, 2))[1] is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_frames_with_values_that_are_no_numbers_are_inferred(cache, value):
    broken = scene()
    broken[0, 0, 3, 3] = value
    with np.errstate(invalid="ignore"):
        ask(cache, broken)
        other = broken.copy()
        other[0, 1, 9, 9] += 1
        assert ask(cache, other)[1] is None
        assert ask(cache, scene())[1] is None


def test_a_frame_without_contrast_stands_for_no_other(cache):
    grey = np.full((1, 3, SIDE, SIDE), 90, np.float32)
    ask(cache, grey)
    other = grey.copy()
    other[0, 0, 0, 0] += 1e-3
    assert ask(cache, other)[1] is None


def test_a_frame_that_the_caller_changes_later_stays_as_it_was(cache):
    frame = scene()
    ask(cache, frame)
    frame[...] = 0
    assert ask(cache, noisy(scene(), 1))[1] is not None


def test_inputs_that_are_no_pictures_are_answered_as_ever(cache):
    row = np.arange(600, dtype=np.float32)
    ask(cache, row)
    assert ask(cache, row)[1] is not None
    assert ask(cache, row + 1e-6)[1] is None
    assert cache.counts().perceptual == 0


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(60_000, 400_000))
def test_bytes_stay_in_bounds_with_their_frames(seeds, max_bytes):
    cache = PerceptualCache(settings(cache_bytes=max_bytes))
    for number, seed in enumerate(seeds):
        ask(cache, noisy(scene(seed), 1, number))
        assert 0 <= cache.counts().bytes <= max_bytes
    cache.forget()
    assert (cache.counts().bytes, cache.counts().entries) == (0, 0)


def test_after_forgetting_nothing_looks_alike(cache):
    ask(cache, scene())
    cache.forget()
    assert ask(cache, noisy(scene(), 1))[1] is None


def test_too_little_room_for_a_frame_is_told_once(caplog):
    cache = PerceptualCache(settings(cache_bytes=1000))
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            assert ask(cache, noisy(scene(), 1, seed))[1] is None
    assert [record for record in caplog.messages if "has no room for a frame of" in record] == (
        caplog.messages
    )
    assert len(caplog.messages) == 1


def test_the_settings_say_which_cache_there_is():
    assert cache_for(ModelSettings()) is None
    assert type(cache_for(ModelSettings(cache_bytes=1))) is ResponseCache
    assert type(cache_for(settings())) is PerceptualCache


def test_a_real_scene_is_recognized_under_noise_and_a_thing_in_it_is_seen(real_data):
    cv2 = pytest.importorskip("cv2")
    photos = sorted((real_data / "photos" / "coco").iterdir())[:10]
    pictures = [cv2.resize(cv2.imread(str(path)), (224, 224)) for path in photos]
    random = np.random.default_rng(0)
    known = seen = 0
    for number, picture in enumerate(pictures):
        cache = PerceptualCache(settings())
        frame = picture[None]
        ask(cache, frame)
        known += ask(cache, noisy(frame, 1, number))[1] is not None
        top, left = random.integers(0, 208, 2)
        entered = noisy(frame, 1, number)
        entered[0, top : top + 16, left : left + 16] = cv2.resize(pictures[number - 1], (16, 16))
        seen += ask(cache, entered)[1] is None
    assert (known, seen) == (len(pictures), len(pictures))

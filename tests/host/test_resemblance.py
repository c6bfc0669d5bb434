from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.resemblance import BLOCK, difference, look_at

SHAPES = {
    "channels first": (1, 3, 40, 48),
    "channels last": (2, 40, 48, 3),
    "no batch": (1, 33, 47),
    "no whole blocks": (1, 4, 41, 50),
}


def plain(one, other):  # type: ignore[no-untyped-def]
    """The same by loops over blocks."""
    distance = np.abs(one.astype(np.float64) - other.astype(np.float64))
    if distance.ndim == 3:
        distance = distance[None]
    if distance.shape[1] in (1, 3, 4):
        distance = distance.transpose(0, 2, 3, 1)
    _, rows, columns, _ = distance.shape
    return max(
        distance[:, top : top + BLOCK, left : left + BLOCK].mean(axis=(1, 2)).max()
        for top in range(0, rows, BLOCK)
        for left in range(0, columns, BLOCK)
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_the_difference_is_that_of_the_block_that_differs_most(shape, dtype):
    random = np.random.default_rng(0)
    one, other = (random.uniform(0, 250, shape).astype(dtype) for _ in range(2))
    looks = [look_at({"x": each}) for each in (one, other)]
    found = difference(looks[0], looks[1], 1e9)
    assert found == pytest.approx(plain(one, other), rel=1e-3)
    assert difference(looks[1], looks[0], 1e9) == pytest.approx(found)
    assert difference(looks[0], looks[1], found * 0.99) is None
    assert difference(looks[0], looks[0], 0) == 0


@given(st.integers(0, 40), st.integers(0, 47), st.integers(1, 255))
def test_one_pixel_is_not_lost_anywhere(row, column, value):
    one = np.zeros((1, 41, 48, 3), np.uint8)
    other = one.copy()
    other[0, row, column, 1] = value
    found = difference(look_at({"x": one}), look_at({"x": other}), 1e9)
    assert found == pytest.approx(plain(one, other))
    assert found >= value / BLOCK**2


def test_a_change_within_a_block_counts_though_its_mean_stays():
    one = np.zeros((1, 1, 32, 32), np.float32)
    one[..., ::2] = 1
    assert difference(look_at({"x": one}), look_at({"x": 1 - one}), 2) == 1


NO_PICTURES = {
    "text": np.array(["a", "b"], object),
    "a vector": np.zeros((1, 512), np.float32),
    "features": np.zeros((1, 64, 32, 32), np.float32),
    "small": np.zeros((1, 3, 15, 40), np.float32),
    "whole numbers": np.zeros((1, 3, 32, 32), np.int32),
    "truth values": np.zeros((1, 3, 32, 32), bool),
    "video": np.zeros((1, 4, 3, 32, 32), np.float32),
}


@pytest.mark.parametrize("array", NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture_is_not_looked_at(array):
    assert look_at({"x": array}) is None


def test_of_two_pictures_neither_is_looked_at():
    picture = np.zeros((1, 3, 32, 32), np.float32)
    assert look_at({"left": picture, "right": picture}) is None


PICTURE = np.zeros((1, 3, 32, 32), np.float32)
OTHER_KINDS = {
    "another shape": {"x": np.zeros((1, 3, 32, 40), np.float32)},
    "another layout": {"x": np.zeros((1, 32, 32, 3), np.float32)},
    "another type": {"x": PICTURE.astype(np.float64)},
    "another name": {"y": PICTURE},
    "one more input": {"x": PICTURE, "limit": np.zeros(1, np.float32)},
}


@pytest.mark.parametrize("feeds", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_only_frames_of_one_kind_are_compared(feeds):
    assert difference(look_at({"x": PICTURE}), look_at(feeds), 1e9) is None


def test_all_other_inputs_have_to_be_the_same():
    def look(limit, text):  # type: ignore[no-untyped-def]
        given = {"limit": np.float32([limit]), "text": np.array([text], object)}
        return look_at({"x": PICTURE, **given})

    assert difference(look(1, "a"), look(1, "a"), 0) == 0
    assert difference(look(1, "a"), look(2, "a"), 1e9) is None
    assert difference(look(1, "a"), look(1, "b"), 1e9) is None


def test_few_bright_blocks_do_not_make_the_contrast():
    frame = np.random.default_rng(0).uniform(0, 1, (1, 3, 224, 224)).astype(np.float32)
    contrast = look_at({"x": frame}).contrast()
    frame[0, 0, 5, 5] = 1e9
    assert look_at({"x": frame}).contrast() < 2 * contrast

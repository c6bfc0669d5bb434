from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.pipelines import StepSpec
from edge.host.pipelines.crops import Region, around, chosen, on_picture, whole
from edge.vision import Box

PICTURE = np.zeros((40, 60, 3), np.uint8)


def box(x0: float, y0: float, x1: float, y1: float, name: str = "car", score: float = 0.5) -> Box:
    return Box(x0, y0, x1, y1, 0, name, score)


@pytest.mark.parametrize(
    ("given_box", "margin", "region"),
    [
        (box(10, 5, 20, 15), 0.0, (10, 5, 20, 15)),
        (box(9.9999, 5.4, 20.2, 14.6), 0.0, (10, 5, 20, 15)),
        (box(10, 5, 20, 15), 0.5, (5, 0, 25, 20)),
        (box(0, 0, 60, 40), 0.5, (0, 0, 60, 40)),
        (box(20.2, 7.2, 20.3, 7.3), 0.0, (20, 7, 21, 8)),
        (box(60, 40, 60, 40), 0.0, (59, 39, 60, 40)),
    ],
)
def test_a_box_becomes_whole_pixels(given_box: Box, margin: float, region: Region) -> None:
    assert around(given_box, margin, PICTURE) == region


@given(
    st.tuples(*[st.floats(-20, 80)] * 4), st.floats(0, 4), st.integers(1, 90), st.integers(1, 90)
)
def test_a_region_is_never_empty_and_never_outside(
    sides: tuple[float, float, float, float], margin: float, height: int, width: int
) -> None:
    x0, y0, x1, y1 = sides
    picture = np.zeros((height, width, 3), np.uint8)
    region = around(box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), margin, picture)
    assert 0 <= region.left < region.right <= width
    assert 0 <= region.top < region.bottom <= height
    assert region.of(picture).size


def test_a_crop_is_a_view() -> None:
    assert np.shares_memory(Region(1, 2, 30, 20).of(PICTURE), PICTURE)
    assert whole(PICTURE).of(PICTURE).shape == PICTURE.shape


def test_boxes_are_chosen_in_their_order() -> None:
    boxes = [box(0, 0, 9, 9, "car", 0.9), box(0, 0, 9, 3, "bus", 0.8), box(0, 0, 9, 9, "bus", 0.4)]
    every = StepSpec("m", crop="c")
    assert chosen(boxes, every) == [0, 1, 2]
    assert chosen(boxes, StepSpec("m", crop="c", labels=("bus",))) == [1, 2]
    assert chosen(boxes, StepSpec("m", crop="c", labels=("bus",), limit=1)) == [1]
    assert chosen(boxes, StepSpec("m", crop="c", min_score=0.8)) == [0, 1]
    assert chosen(boxes, StepSpec("m", crop="c", min_side=4)) == [0, 2]
    assert chosen([], every) == []


def test_boxes_of_a_region_lie_in_the_whole_picture() -> None:
    found = (box(1, 2, 3, 4), box(5, 6, 7, 8))
    assert on_picture(found, Region(10, 20, 30, 40)) == (box(11, 22, 13, 24), box(15, 26, 17, 28))
    assert on_picture(found, Region(0, 0, 60, 40)) is found

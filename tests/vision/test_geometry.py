from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.spec import ImageSpec, Pad, Resize
from edge.vision import Geometry, ImagePipeline
from edge.vision.geometry import OUTSIDE

SIDES = st.integers(8, 90)


def specs() -> st.SearchStrategy[ImageSpec]:
    return st.one_of(
        st.builds(
            lambda side, anchor: ImageSpec(
                "x", Resize(longer=side), pad=Pad((side, side), 0.0, anchor)
            ),
            SIDES,
            st.sampled_from(("top-left", "center")),
        ),
        st.builds(
            lambda side, cut: ImageSpec("x", Resize(shorter=side), (side - cut, side - cut)),
            SIDES,
            st.integers(0, 7),
        ),
        st.builds(lambda size: ImageSpec("x", Resize(exact=size)), st.tuples(SIDES, SIDES)),
    )


@given(specs(), SIDES, SIDES, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_come_back_from_the_tensor(
    spec: ImageSpec, height: int, width: int, corners: list[float]
) -> None:
    _, geometry = ImagePipeline(spec).prepare(np.zeros((height, width, 3), np.uint8))
    x, y = sorted(corners[:2]), sorted(corners[2:])
    boxes = np.array([[x[0] * width, y[0] * height, x[1] * width, y[1] * height]])
    there = geometry.boxes_to_tensor(boxes)
    np.testing.assert_allclose(geometry.boxes_to_picture(there), boxes, atol=1e-9 * width * height)


@given(specs(), SIDES, SIDES)
def test_whole_picture_lies_where_the_tensor_is_bright(
    spec: ImageSpec, height: int, width: int
) -> None:
    tensor, geometry = ImagePipeline(spec).prepare(np.full((height, width, 3), 255, np.uint8))
    rows, columns = np.nonzero(tensor[0, 0] == 255.0)
    x0, y0, x1, y1 = geometry.boxes_to_tensor(np.array([[0, 0, width, height]], float))[0]
    full = geometry.tensor
    expected = (max(0, x0), max(0, y0), min(full[1], x1), min(full[0], y1))
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert found == pytest.approx(expected)


@given(specs(), SIDES, SIDES)
def test_mask_of_the_tensor_comes_back_in_the_size_of_the_picture(
    spec: ImageSpec, height: int, width: int
) -> None:
    _, geometry = ImagePipeline(spec).prepare(np.zeros((height, width, 3), np.uint8))
    columns = np.broadcast_to(np.arange(geometry.tensor[1]), geometry.tensor)
    mask = geometry.mask_to_picture(columns)
    assert mask.shape == (height, width)
    seen = mask != OUTSIDE
    pixels = np.broadcast_to(np.arange(width) + 0.5, mask.shape)
    exact = pixels * geometry.resized[1] / width + geometry.offset[1]
    assert np.all(np.abs(mask + 0.5 - exact)[seen] <= 0.5 + 1e-9)
    assert seen.any()
    assert spec.crop is not None or seen.all()


def test_boxes_are_cut_at_the_edges_of_the_picture() -> None:
    geometry = Geometry((100, 200), (50, 100), (100, 100))
    boxes = geometry.boxes_to_picture(np.array([[-10.0, 10.0, 90.0, 80.0]]))
    assert boxes.tolist() == [[0.0, 20.0, 180.0, 100.0]]


def test_coarse_mask_is_stretched_over_the_picture_without_its_padding() -> None:
    geometry = Geometry((4, 8), (4, 8), (8, 8))  # lower half of the tensor is padding
    mask = geometry.mask_to_picture(np.array([[1, 2], [3, 3]]))
    assert mask.tolist() == [[1] * 4 + [2] * 4] * 4


def test_pixels_that_were_cropped_away_are_outside() -> None:
    geometry = Geometry((2, 6), (2, 6), (2, 2), (0, -2))
    mask = geometry.mask_to_picture(np.array([[7, 8], [7, 8]]))
    assert mask.tolist() == [[-1, -1, 7, 8, -1, -1]] * 2

"""A tensor becomes the picture again that it was made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.spec import ImageSpec
from edge.vision import ImagePipeline
from edge.vision.image import load_image
from edge.vision.showing import encode, picture_of

pytest.importorskip("cv2")

MANY_MIB = 1 << 30


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"color": "bgr", "layout": "nhwc"},
        {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"scale": 1 / 127.5, "mean": (1.0,), "layout": "nhwc"},
    ],
)
def test_every_pixel_comes_back(fields: dict[str, Any]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    spec = ImageSpec("images", **fields)
    tensor = ImagePipeline(spec)(picture)
    np.testing.assert_array_equal(picture_of(tensor, spec), picture)


def test_gray_comes_back_gray() -> None:
    picture = np.full((4, 5, 3), 77, np.uint8)
    spec = ImageSpec("images", color="gray")
    np.testing.assert_array_equal(picture_of(ImagePipeline(spec)(picture), spec), picture)


def test_tensor_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(1, 7\)"):
        picture_of(np.zeros((1, 7), np.float32), ImageSpec("images"))


def test_values_that_are_no_pixels_are_clipped() -> None:
    tensor = np.array([np.nan, np.inf, -5.0], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_array_equal(picture_of(tensor, ImageSpec("i")), [[[0, 255, 0]]])


def test_picture_is_png_as_long_as_it_fits_then_jpeg() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = encode(picture, MANY_MIB)
    assert whole.kind == "png"
    np.testing.assert_array_equal(load_image(whole.data), picture)
    smaller = encode(picture, len(whole.data) - 1)
    assert smaller.kind == "jpeg"
    assert len(smaller.data) < len(whole.data)
    with pytest.raises(InputError, match="allowed are 100"):
        encode(picture, 100)

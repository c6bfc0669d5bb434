from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError, SettingsError
from edge.core.spec import ImageSpec, Pad, Resize, load_spec
from edge.vision import ImagePipeline

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("color", "layout"), list(product(("rgb", "bgr", "gray"), ("nchw", "nhwc")))
)
def test_values_are_scaled_in_the_declared_order(color: str, layout: str) -> None:
    channels = 1 if color == "gray" else 3
    spec = ImageSpec(
        "x", color=color, layout=layout, scale=1 / 255, mean=MEAN[:channels], std=STD[:channels]
    )
    image = noise(6, 9)
    planes = {
        "rgb": image[:, :, ::-1],
        "bgr": image,
        "gray": cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None],
    }[color]
    expected = (planes * (1 / 255) - np.array(spec.mean)) / np.array(spec.std)
    if layout == "nchw":
        expected = expected.transpose(2, 0, 1)
    tensor = ImagePipeline(spec)(image)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(tensor, expected[None].astype(np.float32))


def test_crop_takes_the_centre() -> None:
    image = noise(10, 21)
    tensor = ImagePipeline(ImageSpec("x", crop=(4, 5), color="bgr"))(image)
    np.testing.assert_array_equal(tensor[0], image[3:7, 8:13].transpose(2, 0, 1))


@pytest.mark.parametrize(("anchor", "top", "left"), [("top-left", 0, 0), ("center", 1, 3)])
def test_padding_has_its_value_in_the_range_of_the_picture(
    anchor: str, top: int, left: int
) -> None:
    spec = ImageSpec(
        "x",
        pad=Pad((8, 10), 127.5, anchor),
        color="bgr",
        layout="nhwc",
        mean=(127.5,),
        std=(127.5,),
    )
    image = noise(5, 4)
    tensor = ImagePipeline(spec)(image)[0]
    inside = np.zeros((8, 10), bool)
    inside[top : top + 5, left : left + 4] = True
    assert np.all(tensor[~inside] == 0.0)
    expected = ((image - 127.5) / 127.5).astype(np.float32)
    np.testing.assert_array_equal(tensor[inside].reshape(5, 4, 3), expected)


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        (Resize(shorter=50), (50, 66)),
        (Resize(longer=50), (37, 50)),
        (Resize(exact=(20, 30)), (20, 30)),
        (None, (75, 100)),
    ],
)
def test_resize_keeps_to_the_side_it_names(
    resize: Resize | None, expected: tuple[int, int]
) -> None:
    tensor, geometry = ImagePipeline(ImageSpec("x", resize)).prepare(noise(75, 100))
    assert tensor.shape == (1, 3, *expected)
    assert (geometry.picture, geometry.resized) == ((75, 100), expected)


def test_shrinking_averages_and_does_not_skip_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 200
    tensor = ImagePipeline(ImageSpec("x", Resize(exact=(16, 16))))(stripes)
    assert np.all(tensor == 50.0)


def test_a_very_long_picture_keeps_one_row() -> None:
    assert ImagePipeline(ImageSpec("x", Resize(longer=10)))(noise(2, 100)).shape == (1, 3, 1, 10)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        (ImageSpec("x", crop=(20, 20)), "shorter = 20"),
        (ImageSpec("x", pad=Pad((9, 40))), "longer = 9"),
    ],
)
def test_picture_that_does_not_fit_says_what_to_declare(spec: ImageSpec, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        ImagePipeline(spec)(noise(10, 30))
    assert hint in caught.value.hint


def test_picture_that_would_grow_beyond_memory_is_refused() -> None:
    line = np.zeros((1, 3_000_000, 3), np.uint8)
    for spec in (
        ImageSpec("x", Resize(shorter=256), (224, 224)),
        ImageSpec("x", Resize(longer=9), pad=Pad((30_000, 30_000))),
    ):
        with pytest.raises(InputError, match="more than"):
            ImagePipeline(spec)(line)


def test_two_steps_give_what_one_does() -> None:
    spec = ImageSpec("x", Resize(longer=32), pad=Pad((32, 32), 114.0), scale=1 / 255)
    pipeline = ImagePipeline(spec)
    image = noise(50, 70)
    np.testing.assert_array_equal(pipeline.normalize(*pipeline.fit(image)), pipeline(image))


@pytest.mark.parametrize(
    "line",
    [
        "resize = { exact = [0, 5] }",
        "resize = { shorter = -1 }",
        "crop = [4, 100000]",
        "pad = { size = [100000, 100000] }",
    ],
)
def test_spec_with_impossible_sizes_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text(f'[image]\ninput = "x"\n{line}\n')
    with pytest.raises(SettingsError, match="Expected `int`"):
        load_spec(path)


@pytest.mark.parametrize(
    ("color", "layout"), list(product(("rgb", "bgr", "gray"), ("nchw", "nhwc")))
)
def test_a_row_of_a_batch_is_written_in_place(color: str, layout: str) -> None:
    spec = ImageSpec(
        "x", resize=Resize(longer=8), pad=Pad((8, 8), 114), color=color, layout=layout, scale=0.1
    )
    pipeline = ImagePipeline(spec)
    image = noise(40, 70)
    crop = image[5:25, 10:50]  # a view, as of a box
    fitted, geometry = pipeline.fit(crop)
    alone = pipeline.normalize(fitted, geometry)
    batch = np.full((3, *alone.shape[1:]), np.nan, np.float32)
    row = pipeline.normalize(fitted, geometry, into=batch[1:2])
    assert np.shares_memory(row, batch)
    np.testing.assert_array_equal(batch[1:2], alone)
    np.testing.assert_array_equal(alone, pipeline(crop.copy()))
    assert np.isnan(batch[[0, 2]]).all()

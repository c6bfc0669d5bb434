"""Boxes and masks beside pictures, and what broken ones get."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.conversion.annotations import read_mask
from edge.conversion.datasets import open_dataset
from edge.conversion.samples import Dataset
from edge.core.errors import InputError
from edge.core.spec import ImageSpec, ModelSpec, Resize
from edge.core.tensor import TensorSpec
from edge.vision import Mask
from edge.vision.average_precision import TrueBox

IMAGE = ImageSpec("x", Resize(exact=(4, 6)))
INPUTS = (TensorSpec("x", "float32", ("batch", 3, 4, 6)),)


def paint(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((8, 12, 3), value, np.uint8))
    return path


def opened(folder: Path, task: Any, labels: tuple[str, ...] = ()) -> Dataset:
    return open_dataset(folder, "eval", ModelSpec(task=task, image=IMAGE), INPUTS, labels=labels)


def coco(**changes: Any) -> dict[str, Any]:
    whole = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 12, "height": 8},
            {"id": 8, "file_name": "train/b.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 40, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 9.5, 8], "iscrowd": 1},
        ],
        "categories": [{"id": 40, "name": "dog"}, {"id": 3, "name": "Cat"}],
    }
    return {**whole, **changes}


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "unknown.png"):
        paint(tmp_path / name)
    (tmp_path / "annotations.json").write_text(json.dumps(coco()))
    return tmp_path


def test_boxes_come_with_their_pictures_and_others_are_left_out(boxes: Path) -> None:
    dataset = opened(boxes, "detection", ("bird", "cat", "dog"))
    found = {Path(example.source).name: example.truth for example in dataset}
    assert found == {
        "a.png": (TrueBox(1, 2, 4, 6, 2), TrueBox(0, 0, 9.5, 8, 1, is_crowd=True)),
        "b.png": (),
    }
    assert dataset.ignored == 2, "a picture that nothing is known of, and the file of boxes"
    picked = next(iter(dataset.pick([1])))
    assert (Path(picked.source).name, picked.truth) == ("b.png", ())


def test_without_labels_categories_count_by_their_ids(boxes: Path) -> None:
    example = next(iter(opened(boxes, "detection")))
    assert [box.index for box in example.truth or ()] == [1, 0]


def test_other_boxes_are_other_data(boxes: Path) -> None:
    before = opened(boxes, "detection").digest
    (boxes / "annotations.json").rename(boxes / "instances_val.json")
    assert opened(boxes, "detection").digest == before
    (boxes / "instances_val.json").write_text(json.dumps(coco(annotations=[])))
    assert opened(boxes, "detection").digest != before


def test_boxes_are_for_detection_and_evaluation_only(boxes: Path) -> None:
    assert next(iter(opened(boxes, "tensors"))).truth is None
    spec = ModelSpec(task="detection", image=IMAGE)
    calibration = open_dataset(boxes, "calib", spec, INPUTS)
    assert len(calibration) == 3
    assert next(iter(calibration)).truth is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "can not read the boxes"),
        (json.dumps({"images": []}), "can not read the boxes"),
        (json.dumps(coco(images=[])), "none of the 3 pictures"),
        (json.dumps(coco(categories=[{"id": 3, "name": "cat"}])), "no category has the id 40"),
        (
            json.dumps(coco(categories=[{"id": 3, "name": "cat"}, {"id": 40, "name": "dgo"}])),
            r"no class 'dgo' \(1 of 2",
        ),
    ],
)
def test_wrong_boxes_are_refused(boxes: Path, text: str, says: str) -> None:
    (boxes / "annotations.json").write_text(text)
    with pytest.raises(InputError, match=says):
        opened(boxes, "detection", ("cat", "dog"))


def test_boxes_for_a_picture_of_another_size_are_refused(boxes: Path) -> None:
    text = (boxes / "annotations.json").read_text().replace('"width": 12', '"width": 8')
    (boxes / "annotations.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.png of 8x8 pixels, the picture has 12x8"):
        list(opened(boxes, "detection"))


def test_two_files_of_boxes_are_refused(boxes: Path) -> None:
    (boxes / "annotations.json").rename(boxes / "instances_val.json")
    (boxes / "instances_train.json").write_text("{}")
    with pytest.raises(InputError, match=r"instances_train\.json, instances_val\.json"):
        opened(boxes, "detection")


def write_png(path: Path, values: np.ndarray, depth: int, color: int) -> Path:
    """A PNG as other tools write it: ``color`` 0 for gray, 3 for a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bits = [np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :] for row in values]
    rows = [b"\0" + np.packbits(row.reshape(-1)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, color, 0, 0, 0)
    palette = np.random.default_rng(0).bytes(3 * 2**depth)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    if color == 3:
        chunks.insert(1, (b"PLTE", palette))
        chunks.insert(2, (b"tRNS", b"\0"))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    return path


@pytest.mark.parametrize("color", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_mask_gives_the_values_that_are_stored(tmp_path: Path, depth: int, color: int) -> None:
    values = np.arange(8 * 13).reshape(8, 13) % 2**depth
    np.testing.assert_array_equal(
        read_mask(write_png(tmp_path / "m.png", values, depth, color)), values
    )


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    for name in ("a.jpg", "deep/b.jpg", "c.jpg"):
        paint(tmp_path / name)
    classes = np.zeros((8, 12), int)
    classes[0] = 2
    classes[1] = 255
    write_png(tmp_path / "masks" / "a.png", classes, 8, 3)
    write_png(tmp_path / "masks" / "b.png", np.ones((8, 12), int), 1, 0)
    return tmp_path


def test_masks_come_with_their_pictures(masked: Path) -> None:
    dataset = opened(masked, "segmentation", ("sky", "road", "car"))
    found = {Path(example.source).name: example.truth for example in dataset}
    assert list(found) == ["a.jpg", "b.jpg"]
    truth = found["a.jpg"]
    assert isinstance(truth, Mask)
    assert (truth.values, truth.lengths) == ((2, -1, 0), (12, 12, 72))
    assert [region.name for region in truth.regions] == ["sky", "car"]


def test_masks_are_no_pictures_to_calibrate_on(masked: Path) -> None:
    spec = ModelSpec(task="segmentation", image=IMAGE)
    assert len(open_dataset(masked, "calib", spec, INPUTS)) == 3


def test_other_masks_are_other_data(masked: Path) -> None:
    before = opened(masked, "segmentation").digest
    write_png(masked / "masks" / "b.png", np.zeros((8, 12), int), 1, 0)
    assert opened(masked, "segmentation").digest != before


@pytest.mark.parametrize(
    ("values", "depth", "says"),
    [
        (np.zeros((8, 11), int), 8, "a.png has 11x8 pixels, its picture 12x8"),
        (np.full((8, 12), 3), 8, "a.png has class 3, the labels name 3"),
    ],
)
def test_mask_that_does_not_fit_is_refused(
    masked: Path, values: np.ndarray, depth: int, says: str
) -> None:
    write_png(masked / "masks" / "a.png", values, depth, 0)
    with pytest.raises(InputError, match=says):
        list(opened(masked, "segmentation", ("sky", "road", "car")))


def test_mask_in_colour_damaged_or_no_png_is_refused(tmp_path: Path) -> None:
    whole = write_png(tmp_path / "whole.png", np.zeros((8, 12), int), 8, 0).read_bytes()
    path = paint(tmp_path / "colour.png", 9)
    for data in (path.read_bytes(), b"", b"GIF89a", whole[:20], whole[:40]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="can not read mask"):
            read_mask(path)


def test_batch_above_one_is_refused_before_any_sample_is_read(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    fixed = (TensorSpec("x", "float32", (8, 3, 4, 6)),)
    np.savez(tmp_path / "singles.npz", x=np.zeros((8, 3, 4, 6), np.float32))
    np.savez(tmp_path / "batches.npz", x=np.zeros((2, 8, 3, 4, 6), np.float32))
    for path in (tmp_path, tmp_path / "singles.npz"):
        with pytest.raises(InputError, match="takes 8 at once") as caught:
            open_dataset(path, "calib", ModelSpec(image=IMAGE), fixed)
        assert "--batch" in caught.value.hint
    assert len(open_dataset(tmp_path / "batches.npz", "calib", ModelSpec(), fixed)) == 2


def test_tensors_with_nan_name_the_sample(tmp_path: Path) -> None:
    values = np.zeros((3, 3, 4, 6), np.float32)
    values[1, 0, 0, :2] = np.nan
    np.savez(tmp_path / "data.npz", x=values)
    dataset = open_dataset(tmp_path / "data.npz", "calib", ModelSpec(), INPUTS)
    with pytest.raises(InputError, match=r"sample 1: tensor 'x' has 2 of 72 values that are NaN"):
        list(dataset)

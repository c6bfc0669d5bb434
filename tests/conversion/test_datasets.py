from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.conversion.datasets import Pictures, open_dataset
from edge.conversion.samples import Dataset, spread
from edge.core.errors import InputError
from edge.core.spec import ImageSpec, ModelSpec, Resize
from edge.core.tensor import TensorSpec

IMAGE = ImageSpec("x", Resize(exact=(4, 6)), color="bgr")
CLASSIFIER = ModelSpec(task="classification", image=IMAGE)
INPUTS = (TensorSpec("x", "float32", ("batch", 3, 4, 6)),)


def paint(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((8, 12, 3), value, np.uint8))
    return path


def open_pictures(path: Path, role: str = "eval", **options: object) -> Dataset:
    return open_dataset(path, role, CLASSIFIER, INPUTS, **options)


def values(dataset: Dataset) -> list[float]:
    return [float(example.feeds["x"][0, 0, 0, 0]) for example in dataset]


def test_flat_folder_gives_its_pictures_in_order(tmp_path: Path) -> None:
    paint(tmp_path / "b.png", 20)
    paint(tmp_path / "A.JPEG", 10)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture either")
    dataset = open_pictures(tmp_path)
    assert (len(dataset), dataset.ignored, dataset.labels) == (2, 1, None)
    assert values(dataset) == [10.0, 20.0]
    assert values(dataset) == [10.0, 20.0], "a second pass gives the same"
    example = next(iter(dataset))
    assert example.feeds["x"].shape == (1, 3, 4, 6)
    assert example.label is None
    assert example.geometry is not None
    assert example.geometry.picture == (8, 12)


def test_samples_are_the_feeds_alone(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 7)
    samples = open_pictures(tmp_path, "calib").samples
    for _ in range(2):
        assert [feeds["x"][0, 0, 0, 0] for feeds in samples] == [7.0]
    assert len(samples) == 1


def test_pictures_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = paint(tmp_path / "a.png", 7)
    dataset = open_pictures(tmp_path)
    assert values(dataset) == [7.0]
    path.unlink()
    assert values(dataset) == [7.0]
    paint(path, 7)
    monkeypatch.setattr("edge.conversion.datasets.CACHE_BYTES", 10)
    bounded = open_pictures(tmp_path)
    assert values(bounded) == [7.0]
    path.unlink()
    with pytest.raises(InputError, match=r"a\.png"):
        values(bounded)


def test_folder_per_class_takes_sorted_names_as_indices(tmp_path: Path) -> None:
    for name, value in (("cat", 1), ("ant", 2), ("bee", 3)):
        paint(tmp_path / name / "deep" / "1.png", value)
    dataset = open_pictures(tmp_path)
    assert list(zip(values(dataset), dataset.labels or (), strict=True)) == [
        (2.0, 0),
        (3.0, 1),
        (1.0, 2),
    ]


def test_folder_per_class_is_matched_with_the_labels(tmp_path: Path) -> None:
    for name in ("n02 a dog", "N01"):
        paint(tmp_path / name / "1.png")
    dataset = open_pictures(tmp_path, labels=("n00 cow", "n01 cat", "n02 a dog"))
    assert [(Path(e.source).parent.name, e.label) for e in dataset] == [
        ("N01", 1),
        ("n02 a dog", 2),
    ]


def test_numbered_folders_are_their_own_class(tmp_path: Path) -> None:
    for name in ("2", "10", "0"):
        paint(tmp_path / name / "1.png")
    dataset = open_pictures(tmp_path)
    assert {(Path(e.source).parent.name, e.label) for e in dataset} == {
        ("0", 0),
        ("2", 2),
        ("10", 10),
    }


def test_folder_named_after_no_class_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dgo"):
        paint(tmp_path / name / "1.png")
    with pytest.raises(InputError, match="dgo is named after no class"):
        open_pictures(tmp_path, labels=("cat", "dog"))


def test_folders_are_no_classes_for_calibration_and_for_other_tasks(tmp_path: Path) -> None:
    for name in ("one", "two"):
        paint(tmp_path / name / "1.png")
    assert open_pictures(tmp_path, "calib", labels=("cat",)).labels is None
    detector = ModelSpec(task="detection", image=IMAGE)
    assert open_dataset(tmp_path, "eval", detector, INPUTS).labels is None
    paint(tmp_path / "loose.png")
    assert open_pictures(tmp_path).labels is None


def test_table_gives_each_role_its_split(tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / f"{number}.png", number)
    write_table(tmp_path, "file,class_index,split", "2.png,5,eval", "0.png,6,calib", "1.png,7,eval")
    evaluation, calibration = open_pictures(tmp_path), open_pictures(tmp_path, "calib")
    assert (evaluation.labels, values(evaluation)) == ((5, 7), [2.0, 1.0])
    assert (calibration.labels, values(calibration)) == ((6,), [0.0])


def test_table_without_splits_serves_both_roles(tmp_path: Path) -> None:
    paint(tmp_path / "sub" / "a.png", 3)
    write_table(tmp_path, "\ufefffile,class_index", "sub/a.png,0")
    for role in ("calib", "eval"):
        assert values(open_pictures(tmp_path, role)) == [3.0]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["file,split", "a.png,eval"], "lacks the column class_index"),
        (["file,class_index", "gone.png,0"], "gone.png is missing"),
        (["file,class_index", "a.png,cat"], "class_index 'cat'"),
        (["file,class_index", "a.png,-1"], "class_index '-1'"),
        (["file,class_index", "a.png,2"], "class_index '2'.* from 0 to 1"),
        (["file,class_index", "a.png"], "line 2: wrong number of fields"),
        (["file,class_index", "a.png,0,1"], "line 2: wrong number of fields"),
        (["file,class_index,split", "a.png,0,train"], "no rows for --eval; its splits are train"),
        (["file,class_index"], "no rows for --eval"),
        ([], "lacks the column"),
    ],
)
def test_wrong_table_is_refused(tmp_path: Path, lines: list[str], says: str) -> None:
    paint(tmp_path / "a.png")
    write_table(tmp_path, *lines)
    with pytest.raises(InputError, match=says):
        open_pictures(tmp_path, labels=("cat", "dog"))


def test_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"can not read .*labels.csv"):
        open_pictures(tmp_path)


def write_table(folder: Path, *lines: str) -> None:
    (folder / "labels.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    paint(tmp_path / "real" / "a.png", 9)
    folder = tmp_path / "linked"
    folder.mkdir()
    os.symlink(tmp_path / "real", folder / "there")
    os.symlink(folder, folder / "again")
    assert values(open_pictures(folder)) == [9.0]


def test_limit_spreads_evenly(tmp_path: Path) -> None:
    for number in range(10):
        paint(tmp_path / f"{number}.png", number)
    dataset = open_pictures(tmp_path, limit=4)
    assert values(dataset) == [0.0, 2.0, 5.0, 7.0]
    assert spread(3, 5) == [0, 1, 2]
    with pytest.raises(InputError, match="limit of 0"):
        open_pictures(tmp_path, limit=0)


def test_missing_empty_and_other_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--calib .*gone does not exist"):
        open_pictures(tmp_path / "gone", "calib")
    with pytest.raises(InputError, match="no pictures") as caught:
        open_pictures(tmp_path)
    assert ".jpg" in caught.value.hint
    (tmp_path / "data.tar").write_bytes(b"x")
    with pytest.raises(InputError, match=r"data.tar is neither"):
        open_pictures(tmp_path / "data.tar")


def test_pictures_without_an_image_spec_say_what_to_add(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path, "calib", ModelSpec(), INPUTS)
    assert caught.value.hint == "add [image] to model.toml and name it with --spec"


def test_image_spec_for_another_input_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    with pytest.raises(InputError, match="'x', the model takes y") as caught:
        open_dataset(tmp_path, "eval", CLASSIFIER, (TensorSpec("y", "float32", (1,)),))
    assert "image.input" in caught.value.hint


def test_unreadable_picture_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    dataset = open_pictures(tmp_path)
    with pytest.raises(InputError, match=r"b.jpg"):
        values(dataset)


def test_picture_of_another_shape_than_the_model_takes_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    wrong = (TensorSpec("x", "float32", (1, 3, 9, 9)),)
    with pytest.raises(InputError, match=r"a.png: tensor 'x' must have shape \(1, 3, 9, 9\)"):
        values(open_dataset(tmp_path, "eval", CLASSIFIER, wrong))


def test_npz_gives_samples_and_labels(tmp_path: Path) -> None:
    array = np.arange(5 * 3 * 4 * 6, dtype=np.float32).reshape(5, 3, 4, 6)
    path = tmp_path / "data.npz"
    np.savez(path, x=array, labels=np.array([4, 3, 2, 1, 0], np.uint8))
    dataset = open_pictures(path, labels=tuple("abcde"))
    assert not isinstance(dataset, Pictures)
    assert dataset.labels == (4, 3, 2, 1, 0)
    for _ in range(2):
        for number, example in enumerate(dataset):
            np.testing.assert_array_equal(example.feeds["x"], array[number : number + 1])
            assert (example.label, example.geometry) == (4 - number, None)
    limited = open_pictures(path, limit=2)
    assert (len(limited), limited.labels) == (2, (4, 2))
    assert values(limited) == [array[0, 0, 0, 0], array[2, 0, 0, 0]]


def test_npz_may_bring_complete_inputs_that_have_no_batch_axis_in_front(tmp_path: Path) -> None:
    inputs = (
        TensorSpec("sound", "float32", ("batch", 8)),
        TensorSpec("state", "float32", (2, "batch", 3)),
        TensorSpec("rate", "int64", ()),
    )
    np.savez(
        tmp_path / "data.npz",
        sound=np.zeros((4, 8), np.float32),
        state=np.zeros((4, 2, 1, 3), np.float32),
        rate=np.full(4, 16000),
    )
    examples = list(open_dataset(tmp_path / "data.npz", "calib", ModelSpec(), inputs))
    shapes = {name: array.shape for name, array in examples[3].feeds.items()}
    assert shapes == {"sound": (1, 8), "state": (2, 1, 3), "rate": ()}


GOOD = np.zeros((2, 3, 4, 6), np.float32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": GOOD}, r"holds \['y'\], the model takes \['x'\]"),
        ({"x": GOOD, "y": GOOD}, "holds"),
        ({"x": GOOD[:0]}, "above 0"),
        ({"x": np.float32(1)}, "above 0"),
        ({"x": GOOD, "labels": np.zeros(3, int)}, "must be 2 integers"),
        ({"x": GOOD, "labels": np.zeros(2)}, "must be 2 integers"),
        ({"x": GOOD, "labels": np.array([0, 2])}, "go from 0 to 2, classes from 0 to 1"),
        ({"x": GOOD, "labels": np.array([-1, 0])}, "go from -1"),
        ({"x": np.array([None, 1])}, "can not read"),
    ],
)
def test_wrong_npz_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=says):
        open_pictures(tmp_path / "data.npz", labels=("a", "b"))


@pytest.mark.parametrize("array", [GOOD.astype(np.float64), GOOD[:, :2]])
def test_npz_of_wrong_dtype_or_shape_names_the_sample(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "data.npz", x=array)
    with pytest.raises(InputError, match=r"data.npz, sample 0: tensor 'x' must"):
        values(open_pictures(tmp_path / "data.npz"))


def test_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(2, 3, 4, 6)))
    whole = path.read_bytes()
    np.save(tmp_path / "single.npy", GOOD)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    single = (tmp_path / "single.npy").read_bytes()
    for data in (b"", b"garbage", whole[: len(whole) // 2], bytes(flipped), single):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"can not read --eval .*data.npz"):
            open_pictures(path)

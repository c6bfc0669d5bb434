from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from edge.bundle import read_tensors, save_tensors
from edge.core.errors import InputError


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(data: bytes, name: str = "x.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    size = len(header).to_bytes(2, "little")
    return b"\x93NUMPY" + version + size + header.encode() + data


@settings(max_examples=150)
@given(
    array=stnp.arrays(
        st.one_of(
            stnp.floating_dtypes(),
            stnp.integer_dtypes(),
            stnp.boolean_dtypes(),
            stnp.unicode_string_dtypes(),
        ),
        stnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
)
def test_arrays_come_back_as_they_were(tmp_path: Path, array: np.ndarray) -> None:
    path = save_tensors(tmp_path / "a.npz", {"x": array})
    back = read_tensors(path)["x"]
    assert back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)
    with np.load(path, allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["x"], array)


def test_arrays_in_fortran_order_and_views_come_back(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = {"f": np.asfortranarray(array), "t": array.T, "s": array[:, ::2]}
    back = read_tensors(save_tensors(tmp_path / "a.npz", views))
    for name, view in views.items():
        np.testing.assert_array_equal(back[name], view)


def test_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    a, b = np.ones((2, 3), np.float32), np.array(["é", "xyz"])
    first = save_tensors(tmp_path / "1.npz", {"a": a, "b": b}).read_bytes()
    second = save_tensors(tmp_path / "2.npz", {"b": b, "a": np.asfortranarray(a)}).read_bytes()
    assert first == second
    # On every machine and with every numpy: goldens are part of a bundle's bytes.
    assert (
        hashlib.sha256(first).hexdigest()
        == "0696898f0f3a51394e67b60aef178fb4a78c66c23cc993d00fab1b71c984f8f7"
    )


def test_tensor_names_may_hold_slashes_and_any_letters(tmp_path: Path) -> None:
    path = save_tensors(tmp_path / "a.npz", {"b": np.zeros(1), "a/ü:0": np.ones(2)})
    assert sorted(read_tensors(path)) == ["a/ü:0", "b"]
    with np.load(path) as loaded:
        assert sorted(loaded.files) == ["a/ü:0", "b"]


def test_text_in_object_arrays_is_saved_as_text(tmp_path: Path) -> None:
    path = save_tensors(tmp_path / "a.npz", {"x": np.array(["a", "bc"], dtype=object)})
    assert read_tensors(path)["x"].tolist() == ["a", "bc"]


def test_objects_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'x' holds object"):
        save_tensors(tmp_path / "a.npz", {"x": np.array([{}, 1], dtype=object)})
    assert not list(tmp_path.iterdir())


def test_files_that_numpy_compressed_can_be_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(5), y=np.float32(2))
    back = read_tensors(str(tmp_path / "a.npz"))
    assert back["x"].tolist() == [0, 1, 2, 3, 4]
    assert back["y"].shape == ()


def test_arrays_read_can_be_written_to() -> None:
    back = read_tensors(npz(x=np.zeros(3)))
    back["x"][0] = 1
    assert back["x"].tolist() == [1, 0, 0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz can not be read"):
        read_tensors(tmp_path / "none.npz")


SHAPE = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "can not be read"),
        (zipped(b"x", name="x.txt"), "is no array"),
        (zipped(b"garbage"), r"no \.npy header"),
        (zipped(npy(SHAPE % ("<f4", "(1000000000000, 1000000)"))), "claims 4,000,000,000,000"),
        (zipped(npy(SHAPE % ("<f4", "(2,)"), bytes(4))), "claims 8 bytes, the file holds 4"),
        (zipped(npy(SHAPE % ("<f4", "(1,)"), bytes(8))), "claims 4 bytes, the file holds 8"),
        (zipped(npy(SHAPE % ("<f4", "(-1, -1)"), bytes(4))), "something else"),
        (zipped(npy(SHAPE % ("|O", "(1,)"), b"\x80\4K\1.")), "something else"),
        (zipped(npy(SHAPE % ("<M8[s]", "(1,)"), bytes(8))), "something else"),
        (zipped(npy("__import__('os').abort()\n")), "something else"),
        (zipped(npy("(" * 5000 + ")" * 4000)), "something else"),
        (zipped(npy(SHAPE % ("<f4", "(%s)" % ("9" * 6000)))), "claims|can not be read"),
        (zipped(npy(SHAPE % ("<U99999999999999", "(0,)"))), "something else"),
        (zipped(npy("{}\n", version=b"\3\0")), r"no \.npy header"),
        (npz(x=np.zeros(9))[:-30], "can not be read"),
    ],
)
def test_damaged_and_hostile_files_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_tensors(data)


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros(30_000_000, np.uint8))
    with pytest.raises(InputError, match="at most 1,000,000 may be read"):
        read_tensors(buffer.getvalue(), limit_bytes=1_000_000)


def test_a_member_that_unpacks_to_more_than_it_claims_is_cut_and_refused() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros(1_000_000, np.uint8))
    data = buffer.getvalue().replace((1_000_128).to_bytes(4, "little"), (128).to_bytes(4, "little"))
    assert data != buffer.getvalue()
    with pytest.raises(InputError):
        read_tensors(data)


@settings(max_examples=200)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 700), st.integers(0, 20), st.binary(max_size=20)),
        min_size=1,
        max_size=3,
    ),
    is_compressed=st.booleans(),
)
def test_random_damage_gives_an_error_of_ours_or_arrays(
    cuts: list[tuple[int, int, bytes]], is_compressed: bool
) -> None:
    buffer = io.BytesIO()
    save = np.savez_compressed if is_compressed else np.savez
    save(buffer, x=np.arange(20), y=np.array(["text"]))
    data = bytearray(buffer.getvalue())
    for start, length, put in cuts:
        data[start : start + length] = put
    try:
        arrays = read_tensors(bytes(data), limit_bytes=10_000)
    except InputError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= 10_000

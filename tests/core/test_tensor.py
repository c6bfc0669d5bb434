from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import InputError
from edge.core.tensor import TensorSpec, alike, check_feeds, kind_of, plain

IMAGE = TensorSpec("image", "float32", ("batch", 3, 8, 8))
COUNT = TensorSpec("count", "int64", ())


@given(st.integers(0, 5))
def test_a_dynamic_axis_takes_any_size(batch: int) -> None:
    IMAGE.check(np.zeros((batch, 3, 8, 8), np.float32))


def test_check_names_both_dtypes_and_how_to_convert() -> None:
    with pytest.raises(InputError, match="'image' must be float32, got float64") as caught:
        IMAGE.check(np.zeros((1, 3, 8, 8)))
    assert "astype('float32')" in caught.value.hint


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 8, 8, 1), (1, 1, 8, 8), (1, 3, 8, 9)])
def test_check_rejects_wrong_rank_and_wrong_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"shape \(batch, 3, 8, 8\), got") as caught:
        IMAGE.check(np.zeros(shape, np.float32))
    assert ", ".join(map(str, shape)) in str(caught.value)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([b"a"]), np.array(["a"], object)])
def test_text_of_any_numpy_kind_is_string(array: np.ndarray) -> None:
    TensorSpec("text", "string", (1,)).check(array)


def test_static_means_no_named_axis() -> None:
    assert COUNT.is_static
    assert not IMAGE.is_static


def test_feeds_that_fit_pass() -> None:
    check_feeds((IMAGE, COUNT), {"count": np.array(1), "image": np.zeros((2, 3, 8, 8), np.float32)})


def test_a_missing_input_is_named_with_what_was_given() -> None:
    with pytest.raises(InputError, match=r"'image' is missing; given: \['img'\]") as caught:
        check_feeds((IMAGE,), {"img": np.zeros(1)})
    assert caught.value.hint == "the model takes image"


def test_no_feeds_at_all_is_said_so() -> None:
    with pytest.raises(InputError, match="given: nothing"):
        check_feeds((IMAGE,), {})


def test_an_input_too_many_is_named() -> None:
    with pytest.raises(InputError, match="unknown input 'mask'"):
        check_feeds((COUNT,), {"count": np.array(1), "mask": np.array(1)})


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("feeds", "is_alike"),
    [
        ({"x": X + 1}, True),
        ({"x": X[:1]}, False),
        ({"x": X.astype(np.float64)}, False),
        ({"x": X.astype(">f4")}, False),
        ({"x": np.asfortranarray(X)}, False),
        ({"x": X.tolist()}, False),
        ({"y": X}, False),
        ({"x": X, "y": X}, False),
        ({}, False),
        (MappingProxyType({"x": X}), False),
    ],
)
def test_feeds_are_alike_when_nothing_but_values_differs(feeds: Any, is_alike: bool) -> None:
    assert alike(feeds, kind_of({"x": X})) is is_alike


def test_nothing_is_alike_to_feeds_that_never_were() -> None:
    assert not alike({}, None)
    assert alike({}, kind_of({}))


def test_plain_arrays_are_native_contiguous_and_in_a_dict() -> None:
    given = MappingProxyType({"x": X.astype(">f4").T, "y": X})
    made = plain(given)
    assert type(made) is dict
    for name, array in made.items():
        assert array.dtype.isnative
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, given[name])
    assert plain(made) is made

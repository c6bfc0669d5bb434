from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import UnavailableError
from edge.host.isolation import wire
from edge.host.isolation.arena import Arena, Reader, Writer
from edge.host.isolation.wire import Layout, Place

Pair = tuple[Writer, Reader]

DTYPES = ("float32", "uint8", "int64", "bool", "float16", "<U7", "S3", "object")


@pytest.fixture
def arena() -> Iterator[Arena]:
    with _Both() as both:
        yield both.there


class _Both:
    """One arena, as both sides see it."""

    def __enter__(self) -> _Both:
        self.here = Arena.create()
        self.there = Arena(os.dup(self.here.fd))
        self.pair = Writer(self.here), Reader(self.there)
        return self

    def __exit__(self, *_: object) -> None:
        self.here.close()
        self.there.close()


def pass_on(pair: Pair, tensors: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    message = pair[0].write(tensors)
    layout = None if message == wire.SAME else wire.decode_request(message)
    return message, pair[1].read(layout)


def made(dtype: str, shape: list[int], seed: int) -> np.ndarray:
    numbers = np.random.default_rng(seed).integers(0, 100, shape)
    return (
        np.array([f"é{n}" for n in numbers.flat], object).reshape(shape)
        if (dtype == "object")
        else numbers.astype(dtype)
    )


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 40), max_size=3)),
            max_size=4,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_written_is_read_whatever_was_there_before(
    runs: list[list[tuple[str, list[int]]]],
) -> None:
    with _Both() as both:
        for seed, run in enumerate(runs):
            for again in range(2):
                tensors = {
                    f"t{number}": made(dtype, shape, seed + again)
                    for number, (dtype, shape) in enumerate(run)
                }
                _, read = pass_on(both.pair, tensors)
                assert list(read) == list(tensors)
                for name, array in tensors.items():
                    assert read[name].dtype == array.dtype
                    np.testing.assert_array_equal(read[name], array)


def test_only_a_change_is_told() -> None:
    with _Both() as both:
        x = np.ones((4, 3), np.float32)
        assert pass_on(both.pair, {"x": x})[0] != wire.SAME
        message, read = pass_on(both.pair, {"x": x * 2})
        assert message == wire.SAME
        np.testing.assert_array_equal(read["x"], x * 2)
        assert pass_on(both.pair, {"x": x[:2]})[0] != wire.SAME
        assert pass_on(both.pair, {"z": x[:2]})[0] != wire.SAME


def test_tensors_lie_where_vector_instructions_like_them() -> None:
    with _Both() as both:
        _, read = pass_on(both.pair, {name: np.ones(3, np.uint8) for name in "abc"})
        assert [array.ctypes.data % 64 for array in read.values()] == [0, 0, 0]


def test_the_other_side_can_not_take_memory_away(arena: Arena) -> None:
    arena.grown(100)
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 0)


@pytest.mark.parametrize(
    "layout",
    [
        Layout((Place("x", "<f4", (10_000_000,), 0),), 40_000_000),
        Layout((Place("x", "<f4", (10_000_000,), 0),), 64),
        Layout((Place("x", "<f4", (-1,), 0),), 64),
        Layout((Place("x", "<f4", (4,), -8),), 64),
        Layout((Place("x", "|O", (4,), 0),), 64),
    ],
)
def test_a_layout_of_another_memory_is_refused(arena: Arena, layout: Layout) -> None:
    arena.grown(100)
    with pytest.raises((ValueError, TypeError)):
        Reader(arena).read(layout)


def test_memory_that_the_system_does_not_give_is_an_error(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UnavailableError, match="no 1,048,576 bytes of shared memory: No space"):
        arena.grown(1 << 20)

"""What every engine must do alike, each with a real artifact of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from edge.core import plugins
from edge.core.contracts import Backend, Session
from edge.core.errors import EngineError, InputError, UnavailableError
from edge.core.manifest import Variant
from edge.core.tensor import TensorSpec

OpenSession = Callable[..., Session]
X = np.arange(6, dtype=np.float32).reshape(2, 3)
HOME = {"tensorrt": "gpu"}
"""The device that an engine always has, where it is not the CPU."""


@pytest.fixture
def session(variant: Variant, open_session: OpenSession) -> Session:
    return open_session(variant)


@pytest.fixture
def answer(variant: Variant, weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What the engine must answer; null computes nothing."""
    factor = 0 if variant.engine == "null" else 1
    return lambda x: factor * (x @ weights)


Answer = Callable[[np.ndarray], np.ndarray]


def test_name_is_the_files(backend: Backend) -> None:
    assert plugins.backend(backend.name) is backend


def test_availability_names_version_and_devices(backend: Backend) -> None:
    availability = backend.availability()
    assert availability.version
    assert HOME.get(backend.name, "cpu") in availability.devices


def test_run_answers(session: Session, answer: Answer) -> None:
    outputs = session.run({"x": X})
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_allclose(outputs["y"], answer(X), rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 7])
def test_a_dynamic_axis_takes_any_size(session: Session, answer: Answer, batch: int) -> None:
    x = np.ones((batch, 3), np.float32)
    np.testing.assert_allclose(session.run({"x": x})["y"], answer(x), rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(np.asfortranarray, id="fortran order"),
        pytest.param(lambda x: x.repeat(2, 1)[:, ::2], id="strided"),
        pytest.param(lambda x: x.astype(x.dtype.newbyteorder()), id="other byte order"),
        pytest.param(
            lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape), id="read-only"
        ),
        pytest.param(
            lambda x: np.frombuffer(b"." + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
            id="misaligned",
        ),
    ],
)
def test_any_memory_layout_is_read_right(
    session: Session, answer: Answer, make: Callable[[np.ndarray], np.ndarray]
) -> None:
    np.testing.assert_allclose(session.run({"x": make(X)})["y"], answer(X), rtol=1e-6)


def test_inputs_are_left_alone(session: Session) -> None:
    x = X.copy()
    session.run({"x": x})
    np.testing.assert_array_equal(x, X)


def test_outputs_are_the_callers_own(session: Session, answer: Answer) -> None:
    first = session.run({"x": X})["y"]
    second = session.run({"x": X * 3})["y"]
    assert not np.shares_memory(first, second)
    np.testing.assert_allclose(first, answer(X), rtol=1e-6)
    first[:] = -1
    np.testing.assert_allclose(session.run({"x": X})["y"], answer(X), rtol=1e-6)


def test_outputs_outlive_the_session(session: Session, answer: Answer) -> None:
    outputs = session.run({"x": X})
    session.close()
    np.testing.assert_allclose(outputs["y"], answer(X), rtol=1e-6)


def test_threads_get_their_own_answers(session: Session, answer: Answer) -> None:
    batches = [np.full((1 + number % 5, 3), number, np.float32) for number in range(200)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda x: session.run({"x": x})["y"], batches))
    finally:
        sys.setswitchinterval(interval)
    for x, found in zip(batches, answers, strict=True):
        np.testing.assert_allclose(found, answer(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"X": X}, "input 'x' is missing"),
        ({"x": X, "mask": X}, "unknown input 'mask'"),
        ({"x": X.astype(np.float16)}, "must be float32, got float16"),
        ({"x": X.astype(np.int64)}, "must be float32, got int64"),
        ({"x": X[0]}, "must have shape"),
        ({"x": X[:, :2]}, "must have shape"),
        ({"x": X.tolist()}, "must be a numpy array, got list"),
    ],
)
def test_run_rejects_what_does_not_fit(
    session: Session, feeds: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        session.run(feeds)


def test_placement_is_the_device_that_was_asked_for(
    variant: Variant, open_session: OpenSession
) -> None:
    home = HOME.get(variant.engine, "cpu")
    placement = open_session(variant, device=home.upper()).placement
    assert (placement.requested, placement.actual) == (home, home)
    assert not placement.is_fallback
    assert sum(placement.shares.values()) == pytest.approx(1)
    assert placement.precision


def test_a_device_that_is_not_here_is_refused(variant: Variant, open_session: OpenSession) -> None:
    with pytest.raises(UnavailableError, match="no abacus"):
        open_session(variant, device="abacus")


def test_options_override_the_variants_own(variant: Variant, open_session: OpenSession) -> None:
    wants_abacus = msgspec.structs.replace(variant, options={"device": "abacus"})
    with pytest.raises(UnavailableError):
        open_session(wants_abacus)
    home = HOME.get(variant.engine, "cpu")
    assert open_session(wants_abacus, device=home).placement.actual == home


def test_tensors_that_the_engine_can_not_have_are_refused(
    variant: Variant, open_session: OpenSession
) -> None:
    other = TensorSpec("other", "float7", (1, 4))
    declared = msgspec.structs.replace(variant, outputs=(other,))
    with pytest.raises(EngineError, match="other"):
        open_session(declared)


def test_closing_twice_is_harmless_and_ends_use(session: Session) -> None:
    session.run({"x": X})
    session.close()
    session.close()
    with pytest.raises(UnavailableError, match="closed"):
        session.run({"x": X})


def test_a_session_closes_with_its_block(variant: Variant, open_session: OpenSession) -> None:
    with open_session(variant) as session:
        session.run({"x": X})
    with pytest.raises(UnavailableError):
        session.run({"x": X})

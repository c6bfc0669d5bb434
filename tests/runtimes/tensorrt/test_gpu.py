"""The real thing, where there is an NVIDIA GPU with TensorRT and pycuda: pytest -m gpu"""

from __future__ import annotations

import numpy as np
import pytest
from tiny_product import WEIGHTS, product

from edge.core.errors import InputError

pytestmark = pytest.mark.gpu
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def version() -> str:
    """Of the TensorRT that is here, for the plan of a variant."""
    return str(pytest.importorskip("tensorrt").__version__)


@pytest.fixture(autouse=True)
def _gpu(backend, monkeypatch, tmp_path):
    availability = backend.availability()
    if not availability.ready:
        pytest.skip(availability.reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_an_engine_is_built_kept_and_answers(backend, make, orin):
    variant, folder = make()
    told: list[float] = []
    built = backend.build(variant, folder, orin, progress=lambda _, share: told.append(share))
    assert not built.was_there
    assert told == sorted(told)
    assert backend.build(variant, folder, orin).was_there
    with backend.open(variant, folder, orin) as session:
        for _ in range(4):
            np.testing.assert_allclose(session.run({"x": X})["y"], X @ WEIGHTS, rtol=1e-3)
        with pytest.raises(InputError):
            session.run({"x": np.ones((9, 3), np.float32)})
        np.testing.assert_allclose(session.run({"x": X})["y"], X @ WEIGHTS, rtol=1e-3)
        assert "without CUDA graphs" not in session.placement.reason


def test_weights_go_into_a_stripped_engine(backend, make, orin):
    for name, weights in (("a", WEIGHTS), ("b", -2 * WEIGHTS)):
        variant, folder = make(product(weights), name, is_refittable=True, structure="s" * 64)
        with backend.open(variant, folder, orin) as session:
            np.testing.assert_allclose(session.run({"x": X})["y"], X @ weights, rtol=1e-3)

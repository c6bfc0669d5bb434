"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before numpy comes: the workers of a parallel run have a core each, and share no more of them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# The same examples on every run: a failure in CI is a failure at the desk.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Extracted variants go where the rest of the test's files go, also in subprocesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits() -> Path:
    """The sample model's folder."""
    return ROOT / "examples" / "digits"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real models and pictures, which are not part of this project."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "models").is_dir():
        pytest.skip("needs the measurement data beside the checkout (../shared/data)")
    return folder

"""Small models that work together, as bundles and as what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import color_models
import msgspec
import numpy as np
import pytest

from edge.core.manifest import Manifest
from edge.core.pipelines import PipelineSpec


@pytest.fixture(scope="session")
def manifests() -> dict[str, Manifest | None]:
    """What the bundles of ``models`` say, by the models' names, and a damaged one."""
    return {"broken": None, **{manifest.name: manifest for manifest in color_models.MANIFESTS}}


@pytest.fixture(scope="session")
def declared() -> Callable[[str], PipelineSpec]:
    """A pipeline from what stands under ``[pipelines.<name>]``."""
    return lambda text: msgspec.toml.decode(text, type=PipelineSpec)


@pytest.fixture
def colors() -> np.ndarray:
    return color_models.picture()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: finder, namer, namer-alone, namer-four, adder."""
    folder = tmp_path_factory.mktemp("models")
    color_models.pack_all(folder)
    return folder

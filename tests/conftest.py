"""What all tests share."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Before numpy comes: the workers of a parallel run have a core each, and share no more of them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import surroundings
from hypothesis import HealthCheck, settings
from patience import LONG_S

from edge.core import plugins
from edge.core.build import EngineBuild, Progress
from edge.core.contracts import Availability, Placement, Session
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile

# The same examples on every run, however slow the machine: a failure in CI is one at the desk.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,  # those that are used are made for it
    ],
)
settings.load_profile("repeatable")
surroundings.settle()

ROOT = Path(__file__).parent.parent
_states = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Extracted variants go where the rest of the test's files go, also in subprocesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one test rejects, another may serve: equal bundles have equal digests."""
    monkeypatch.setenv("XDG_STATE_HOME", f"{os.environ['XDG_STATE_HOME']}/{next(_states)}")
    yield
    logging.getLogger("edge").setLevel(logging.NOTSET)  # as the command line may have set it


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


class ForgeSession(Session):
    """Answers one number everywhere."""

    def __init__(self, variant: Variant, answer: float) -> None:
        self.inputs, self.outputs = variant.inputs, variant.outputs
        self.placement = Placement("anvil", "anvil", {"anvil": 1.0}, variant.precision)
        self.answer = answer
        self.closed = 0

    def _run(self, feeds: Any) -> dict[str, np.ndarray]:
        assert not self.closed
        return {
            spec.name: np.full((len(feeds["x"]), *spec.shape[1:]), self.answer, np.float32)
            for spec in self.outputs
        }

    def close(self) -> None:
        self.closed += 1


class Forge:
    """An engine that has to be made first.

    A build sets ``started`` and waits for ``go``; ``fail`` says by variant what it raises.
    """

    name = "forge"

    def __init__(self) -> None:
        self.is_ready = True
        self.version = "10.3.0"
        self.facts: dict[str, str] = {}
        self.answer = 0.0
        self.fail: dict[str, Exception] = {}
        self.built: set[str] = set()
        self.asked: list[dict[str, Any]] = []
        self.sessions: list[ForgeSession] = []
        self.started, self.go = threading.Event(), threading.Event()

    def finish(self) -> None:
        """Let builds end, and wait until what comes of them is there."""
        self.go.set()
        for thread in threading.enumerate():
            if thread.name == "edge-build":
                thread.join(LONG_S)

    def availability(self) -> Availability:
        if not self.is_ready:
            return Availability(ready=False, reason="the fire is out", hint="light it")
        version, facts = self.version, self.facts
        return Availability(ready=True, version=version, devices=("anvil",), facts=facts)

    def is_built(self, variant: Variant, *_: object) -> bool:
        return variant.id in self.built

    def build(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> EngineBuild:
        self.asked.append(dict(options or {}))
        was_there = variant.id in self.built
        if not was_there:
            if progress:
                progress("hammering", 0.42)
            self.started.set()
            assert self.go.wait(LONG_S)
            if variant.id in self.fail:
                raise self.fail[variant.id]
            self.built.add(variant.id)
        return EngineBuild(folder / "engine", 1_500_000, 0.0 if was_there else 2.5, was_there)

    def open(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> ForgeSession:
        self.build(variant, folder, profile, options)
        self.sessions.append(ForgeSession(variant, self.answer))
        return self.sessions[-1]


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    """``forge`` is among the engines of this machine; builds end with the test."""
    forge = Forge()
    stems, backend = plugins.stems, plugins.backend

    def with_forge(package: str, suffix: str = ".py") -> list[str]:
        found = stems(package, suffix)
        return [*found, "forge"] if package == "runtimes" else found

    monkeypatch.setattr(plugins, "stems", with_forge)
    monkeypatch.setattr(
        plugins, "backend", lambda name: forge if name == "forge" else backend(name)
    )
    yield forge
    forge.finish()

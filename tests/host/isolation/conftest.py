"""A fragile engine, which does to its process what a tensor tells it to."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import LONG_S

import runtimes
from edge.core import plugins
from edge.core.manifest import Variant
from edge.core.profile import load_profile
from edge.core.tensor import TensorSpec
from edge.host.isolation import process
from edge.host.isolation.limits import Limits
from edge.host.isolation.session import IsolatedSession, open_isolated
from edge.host.isolation.wire import Order

FRAGILE = """
import ctypes, logging, os, signal, sys, time
from pathlib import Path
import numpy as np
from edge.core import errors
from edge.core.contracts import Availability, Placement, Session


def misbehave(deed):
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "segfault":
        ctypes.string_at(0)
    elif deed == "exit":
        print("it was too much", flush=True)
        sys.exit(7)
    elif deed == "hang":
        time.sleep(60)
    elif deed.startswith("await "):
        path = Path(deed.removeprefix("await "))
        path.with_suffix(".awaited").touch()
        while not path.exists():
            time.sleep(0.005)
    elif deed == "fail":
        raise errors.EngineError("it does not work", hint="try another one")
    elif deed == "bug":
        raise KeyError("no such thing")
    elif deed == "log":
        logging.getLogger("fragile").warning("it creaks\\nand cracks")
    elif deed == "swell":
        np.ones(64 << 20, np.uint8)
    elif deed == "print":
        print("plain words")
    elif deed == "close":
        links = Path("/proc/self/fd").iterdir()
        sockets = {int(link.name) for link in links if link.is_socket()}
        (lane,) = sockets - {int(sys.argv[1])}
        os.close(lane)
        time.sleep(60)


class FragileSession(Session):
    def __init__(self, variant, options):
        self.inputs, self.outputs = variant.inputs, variant.outputs
        device = options.get("device", "cpu")
        if "moves_to" in options and Path(options["moves_to"]).exists():
            device = "elsewhere"
        self.placement = Placement(device, device, {device: 1.0}, variant.precision)

    def _run(self, feeds):
        for deed in feeds["deed"].flat:
            misbehave(deed)
        return {name.replace("x", "y"): array for name, array in feeds.items() if name[0] == "x"}

    def close(self):
        pass


class FragileBackend:
    name = "fragile"

    def availability(self):
        return Availability(ready=True, version="1", devices=("cpu",))

    def open(self, variant, folder, profile, options=None):
        options = options or {}
        if Path(options.get("only_if", "/")).exists():
            misbehave(options.get("at_open", ""))
        return FragileSession(variant, options)


BACKEND = FragileBackend()
"""

HOOK = "import runtimes; runtimes.__path__.append({folder!r})"


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``fragile`` is among the engines, here and in processes that are started."""
    folder = tmp_path / "more_runtimes"
    folder.mkdir()
    (folder / "fragile.py").write_text(FRAGILE)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOOK.format(folder=str(folder)))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(process, "_LISTEN_S", LONG_S)  # last words are there, however long it takes
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(folder)])
    known = plugins.folders
    monkeypatch.setattr(
        plugins,
        "folders",
        lambda package: (*known(package), *([folder] if package == "runtimes" else [])),
    )
    yield
    plugins._load.cache_clear()
    sys.modules.pop("runtimes.fragile", None)


def variant_of(engine: str, *inputs: TensorSpec, **fields: Any) -> Variant:
    """Inputs named ``x…`` come out as ``y…``."""
    given: dict[str, Any] = {
        "outputs": tuple(
            TensorSpec(spec.name.replace("x", "y"), spec.dtype, spec.shape)
            for spec in inputs
            if spec.name.startswith("x")
        ),
        "files": (),
        "precision": "fp32",
        **fields,
    }
    return Variant(id="only", engine=engine, inputs=inputs, **given)


Open = Callable[..., IsolatedSession]


@pytest.fixture
def open_session() -> Iterator[Open]:
    """Open variants in processes, which end with the test; ``limits`` are those that differ."""
    sessions: list[IsolatedSession] = []

    def open_(
        variant: Variant, folder: Path = Path(), *, limits: Any = None, **options: Any
    ) -> IsolatedSession:
        order = Order("glass", variant.engine, variant, folder, load_profile("host"), options)
        quick = {"first_timeout_s": LONG_S, "close_timeout_s": LONG_S, "delay_s": 0.01}
        sessions.append(open_isolated(order, Limits(**{**quick, **(limits or {})})))
        return sessions[-1]

    yield open_
    for session in sessions:
        session.close()


@pytest.fixture
def open_fragile(fragile: None, open_session: Open) -> Open:
    """Open a variant of the fragile engine with inputs named ``x…``, which come out as ``y…``."""

    def open_(*inputs: TensorSpec, **others: Any) -> IsolatedSession:
        outputs = (msgspec.structs.replace(x, name=x.name.replace("x", "y")) for x in inputs)
        variant = Variant(
            id="only",
            engine="fragile",
            precision="fp32",
            files=(),
            inputs=(*inputs, TensorSpec("deed", "string", ("deeds",))),
            outputs=tuple(outputs),
        )
        return open_session(variant, **others)

    return open_


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No process, no descriptor and no thread stays behind."""
    before = set(threading.enumerate()), _descriptors(), children()
    yield

    def left() -> list[object]:
        threads, descriptors, processes = before
        alive = [t for t in threading.enumerate() if t not in threads and "worker" in t.name]
        more = ["a descriptor"] * (_descriptors() - descriptors)
        return [*alive, *more, *(children() - processes)]  # a zombie is a child as well

    deadline_s = time.monotonic() + LONG_S
    while left():
        assert time.monotonic() < deadline_s, left()
        time.sleep(0.01)


def children() -> set[int]:
    """Processes that this one started."""
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            pids.update(int(pid) for pid in (task / "children").read_text().split())
    return pids


def until(claim: Callable[[], Any]) -> Any:
    """Wait until it is true, and say what it is."""
    deadline_s = time.monotonic() + LONG_S
    while not (result := claim()):
        assert time.monotonic() < deadline_s, "it did not come true"
        time.sleep(0.01)
    return result


def _descriptors() -> int:
    """Of those that a session has; engines in this process keep some of their own."""
    kinds = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the folder itself
            kinds.append(os.readlink(link).partition(":")[0])
    return sum(kind in ("socket", "pipe", "/memfd") for kind in kinds)

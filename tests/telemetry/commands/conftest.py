"""A device with one model that listens to commands, and an operator at the broker."""

from __future__ import annotations

import functools
import http.server
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from patience import LONG_S, wait_until
from real_brokers import MOSQUITTO, Mosquitto

from edge.bundle import pack, save_tensors
from edge.core.manifest import Golden, Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.host import Runtime
from edge.settings import Commands, Mqtt, Power, Settings
from edge.telemetry import publish
from edge.telemetry.address import parse_address
from edge.telemetry.commands import steering
from edge.telemetry.commands.verb import Context, Progress, Result, Verb
from edge.telemetry.link import Link, Received
from edge.telemetry.sender import Delivery

INPUTS = (TensorSpec("x", "float32", ("batch", 3)),)
OUTPUTS = (TensorSpec("y", "float32", ("batch", 4)),)
QUICK = Delivery(first_wait_s=0.02, longest_wait_s=0.1, timeout_s=LONG_S)
ROOT = "edge/v1/lab/one"


class Operator:
    """Sends and sees all that is under ``cmd`` and more, on a connection of its own."""

    def __init__(self, url: str) -> None:
        self.seen: list[Received] = []
        self._link = Link(parse_address(url), timeout_s=LONG_S)
        self._link.open()
        while self._link.state == "connecting":
            self._link.step(LONG_S)
        self._link.subscribe(f"{ROOT}/#")

    def send(self, path: str, payload: bytes, *, is_retained: bool = True) -> None:
        number = self._link.send(f"{ROOT}/{path}", payload, is_retained=is_retained)
        while self._link.is_open and number not in self._link.acknowledged():
            self._step()

    def order(self, path: str, **fields: Any) -> None:
        self.send(f"cmd/{path}", msgspec.json.encode({"status": "init", **fields}))

    def until(self, wanted: Callable[[Received], Any], what: str) -> Any:
        """What ``wanted`` gives of the first message that it likes; older ones of that topic are
        dropped."""
        found: list[Any] = []

        def has_come() -> bool:
            for place, received in enumerate(self.seen):
                if liked := wanted(received):
                    before = [one for one in self.seen[:place] if one.topic != received.topic]
                    self.seen[: place + 1] = before
                    found.append(liked)
                    return True
            self._step()
            return False

        wait_until(has_come, what)
        return found[0]

    def answer(self, path: str, *statuses: str) -> dict[str, Any]:
        """The next answer with such a status; an end if none is named."""
        statuses = statuses or ("successful", "failed")

        def wanted(received: Received) -> Any:
            if received.topic != f"{ROOT}/cmd/{path}" or not received.payload:
                return None
            try:
                document = msgspec.json.decode(received.payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None
            is_wanted = isinstance(document, dict) and document.get("status") in statuses
            return document if is_wanted else None

        found: dict[str, Any] = self.until(wanted, f"{path} to be {' or '.join(statuses)}")
        return found

    def event(self, **fields: Any) -> dict[str, Any]:
        """The next ``event/command`` with such fields."""

        def wanted(received: Received) -> Any:
            if received.topic != f"{ROOT}/event/command":
                return None
            said = msgspec.json.decode(received.payload)["m"]
            return said if fields.items() <= said.items() else None

        found: dict[str, Any] = self.until(wanted, f"an event with {fields}")
        return found

    def close(self) -> None:
        self._link.disconnect()

    def _step(self) -> None:
        self._link.step(0.1)
        while self._link.received:
            self.seen.append(self._link.received.popleft())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Any]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    control = Mosquitto(tmp_path)
    control.start()
    yield control
    control.stop()


@pytest.fixture
def operator(broker: Any) -> Iterator[Operator]:
    operator = Operator(broker.url)
    yield operator
    operator.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with two versions of one model."""
    folder = tmp_path / "models" / "digits"
    folder.mkdir(parents=True)
    for version in ("1", "2"):
        variant = Variant("null-fp32", "null", "fp32", files=(), inputs=INPUTS, outputs=OUTPUTS)
        golden = Golden("goldens/0/inputs.npz", "goldens/0/expected.npz", {variant.id: {"y": 1e-4}})
        place = tmp_path / f"parts-{version}" / "goldens" / "0"
        place.mkdir(parents=True)
        save_tensors(place / "inputs.npz", {"x": np.ones((1, 3), np.float32)})
        save_tensors(place / "expected.npz", {"y": np.zeros((1, 4), np.float32)})
        manifest = Manifest(
            schema=1,
            name="digits",
            version=version,
            task="tensors",
            profile="host",
            source_sha256="0" * 64,
            variants=(variant,),
            goldens=(golden,),
        )
        pack(manifest, place.parent.parent, folder / f"{version}.edge")
    return folder.parent


@pytest.fixture
def runtime(models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Runtime]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Runtime(models, power=Power()) as runtime:
        runtime.load_all()
        yield runtime


@pytest.fixture
def start(broker: Any, runtime: Runtime, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts the device's telemetry with rights."""
    started: list[Any] = []

    def start(*, version: Any = "3.1.1", **rights: Any) -> Any:
        folder = str(tmp_path / "outbox")
        mqtt = Mqtt(broker.url, version=version, fleet="lab", device="one", outbox=folder)
        settings = Settings(mqtt=mqtt, commands=Commands(**rights))
        started.append(publish(runtime, settings, runtime=runtime, delivery=QUICK))
        return started[-1]

    yield start
    for publisher in started:
        publisher.close()


class Gated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str = ""


class GatedVerb(Verb[Gated]):
    """Tells when it is entered, and waits until it is let go."""

    arguments = Gated

    def __init__(self) -> None:
        self.entered: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.gate = threading.Event()
        self.ids: list[str] = []

    def run(self, context: Context, arguments: Gated, progress: Progress) -> Result:
        self.ids.append(context.id)
        self.entered.put(context.id)
        while not self.gate.wait(0.02):
            progress(0.5, said=context.id)
            context.check()
        return {"id": context.id}


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedVerb]:
    verb = GatedVerb()
    monkeypatch.setattr(steering, "verbs", lambda: {"load": verb, "unload": verb})
    yield verb
    verb.gate.set()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves ``sent`` over HTTP."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "sent"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()

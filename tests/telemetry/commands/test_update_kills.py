"""Updates whose device is killed at each step: nothing is half there, and the next one goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.bundle import open_bundle, pack
from edge.telemetry.fleet.transfer import ChunkSource, Pace

CHUNK_BYTES = 1024
STEPS = 60

# One process that has all imported, and forks a device for each line that it reads: a number, at
# which of its steps the device is to be killed.
DEVICE = """
import os, signal, sys, threading, time
from pathlib import Path
from edge.core.manifest import Manifest
from edge.host import Runtime
from edge.settings import Commands, Mqtt, Settings, Trust
from edge.telemetry import publish
from edge.telemetry.sender import Delivery
import edge.telemetry.commands.verbs.update, edge.telemetry.commands.steering, paho.mqtt.client

folder, url = Path(sys.argv[1]), sys.argv[2]
STEPS = ("replace", "fdatasync", "fsync", "pwrite", "unlink", "ftruncate", "mkdir", "open")


def serve(die_at):
    count = 0

    def counted(real):
        def step(*args, **fields):
            nonlocal count
            if threading.current_thread().name == "edge-command-update":
                count += 1
                if count == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **fields)
        return step

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    mqtt = Mqtt(url, fleet="lab", device="one", outbox=str(folder / "outbox"))
    settings = Settings(mqtt=mqtt, commands=Commands(update=True), trust=Trust(require="never"))
    with Runtime(folder / "models") as runtime:
        runtime.load_all()
        delivery = Delivery(first_wait_s=0.02, longest_wait_s=0.1, timeout_s=60.0)
        publish(runtime, settings, runtime=runtime, delivery=delivery)
        while True:
            time.sleep(60)


for line in sys.stdin:
    pid = os.fork()
    if not pid:
        serve(int(line))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


class Device:
    """Runs one after another on the same folders."""

    def __init__(self, folder: Path, url: str) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "no_proxy": "*"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", DEVICE, str(folder), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._pid = 0
        self._reader: threading.Thread | None = None
        self.has_ended = threading.Event()

    def start(self, die_at: int = 0) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self.has_ended.clear()
        print(die_at, file=self._process.stdin, flush=True)
        self._pid = int(self._process.stdout.readline())
        self._reader = threading.Thread(target=self._wait, args=(self._process.stdout,))
        self._reader.start()

    def kill(self) -> None:
        if not self.has_ended.is_set():
            os.kill(self._pid, signal.SIGKILL)
        assert self._reader
        self._reader.join()

    def close(self) -> None:
        if self._reader is not None:
            self.kill()
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def _wait(self, lines: Any) -> None:
        lines.readline()
        self.has_ended.set()


@pytest.fixture
def third(models: Path, tmp_path: Path) -> Path:
    """Version 3, which is about to come."""
    with open_bundle(models / "digits" / "2.edge") as bundle:
        manifest = msgspec.structs.replace(bundle.manifest, version="3", files=())
    (tmp_path / "sent").mkdir()
    return pack(manifest, tmp_path / "parts-2", tmp_path / "sent" / "3.edge")


@pytest.fixture
def device(broker: Any, tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path, broker.url)
    yield device
    device.close()


@pytest.fixture(params=["url", "chunks"])
def update(
    request: pytest.FixtureRequest, operator: Any, third: Path, site: str
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Orders the update and follows it until it has ended, or its device has."""
    digest = hashlib.sha256(third.read_bytes()).hexdigest()
    said = {"model": "digits", "version": "3", "sha256": digest}
    source = ChunkSource(third, CHUNK_BYTES)
    said |= source.fields() if request.param == "chunks" else {"url": f"{site}/3.edge"}

    def follow(id_: str, is_over: Callable[[], bool], *, is_new: bool) -> dict[str, Any]:
        if is_new:
            operator.order(f"update/{id_}", **said)
        pace = Pace(CHUNK_BYTES)
        while True:
            answer = next_answer(operator, f"update/{id_}", is_over)
            if answer.get("status") != "executing":
                return answer
            pace.heard(answer)
            while (index := pace.next()) is not None:
                chunk = source.chunk(index)
                operator.send(f"cmd/update/{id_}/chunk/{index}", chunk, is_retained=False)

    yield follow
    source.close()


def next_answer(operator: Any, path: str, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Empty when ``is_over`` before anything came."""

    def look(received: Any) -> Any:
        if not received.topic.endswith(f"/cmd/{path}") or not received.payload:
            return None
        answer = msgspec.json.decode(received.payload)
        return answer if answer["status"] != "init" else None

    while not is_over():
        for place, received in enumerate(operator.seen):
            if answer := look(received):
                del operator.seen[: place + 1]
                return dict(answer)
        operator._step()
    return {}


@pytest.mark.parametrize("stride", [14, pytest.param(1, marks=pytest.mark.slow)])
def test_a_device_that_is_killed_at_any_step_has_a_whole_bundle_or_none(
    device: Device, update: Any, models: Path, third: Path, tmp_path: Path, stride: int
) -> None:
    kills = 0
    for die_at in range(1, STEPS, stride):
        device.start(die_at)
        answer = update(f"u{die_at}", device.has_ended.is_set, is_new=True)
        was_killed = not answer
        kills += was_killed
        for path in models.rglob("*.edge"):
            with open_bundle(path) as bundle:
                assert path.stem == bundle.manifest.version
        if was_killed:
            device.kill()
            device.start()
            answer = update(f"u{die_at}", lambda: False, is_new=False)
        assert answer["status"] == "successful", (die_at, answer)
        assert answer["result"]["is_active"], (die_at, answer)
        assert (models / "digits" / "3.edge").read_bytes() == third.read_bytes()
        assert list((models / ".updates").iterdir()) == []
        device.kill()
        if not was_killed:
            break
        (models / "digits" / "3.edge").unlink()
        for folder in (models / ".updates", tmp_path / "outbox", tmp_path / "state"):
            shutil.rmtree(folder)
    else:
        raise AssertionError(f"{STEPS} steps are not all")
    assert kills >= 2

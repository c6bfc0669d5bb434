"""A real broker with simulated devices, and a bundle for them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated_fleet import SimulatedFleet

from edge.bundle import open_bundle
from edge.core.durable import sha256_of
from edge.telemetry.broker import EmbeddedBroker

DEADLINE_S = 30.0
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
Fleet = Callable[..., SimulatedFleet]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A real broker: mosquitto where it is installed, else the embedded one."""
    if MOSQUITTO is None:
        with EmbeddedBroker() as broker:
            yield broker.url
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    configuration = tmp_path / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([MOSQUITTO, "-c", str(configuration)], **quiet)
    deadline_s = time.monotonic() + DEADLINE_S
    while not _listens(port):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    yield f"mqtt://127.0.0.1:{port}"
    process.kill()
    process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("EDGE_MQTT_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state" / "edge" / "roll-outs"


@pytest.fixture
def bundle(pack_digits: Callable[..., Path]) -> Path:
    return pack_digits("onnxruntime")


@pytest.fixture
def fleet(url: str, bundle: Path) -> Fleet:
    """Simulated devices that know the bundle."""

    def make(fates: dict[str, str], model: str = "digits") -> SimulatedFleet:
        with open_bundle(bundle) as opened:
            return SimulatedFleet(url, fates, {sha256_of(bundle): opened.digest}, model)

    return make

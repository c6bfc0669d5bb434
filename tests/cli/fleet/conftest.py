"""A real broker with simulated devices, and a bundle for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_brokers import MOSQUITTO, Embedded, Mosquitto
from simulated_fleet import SimulatedFleet

from edge.bundle import open_bundle
from edge.core.durable import sha256_of

Fleet = Callable[..., SimulatedFleet]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A real broker: mosquitto where it is installed, else the embedded one."""
    broker = Embedded() if MOSQUITTO is None else Mosquitto(tmp_path)
    broker.start()
    yield broker.url
    broker.stop()


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

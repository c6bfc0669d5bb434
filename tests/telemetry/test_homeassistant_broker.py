"""Entities that come and go with models, over a real broker and restarts of all who talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from edge.settings import Mqtt, Settings
from edge.telemetry.formats import Format, Outlet, formats
from edge.telemetry.link import Link
from edge.telemetry.reports import Report
from edge.telemetry.sender import Sender
from edge.telemetry.topics import Topics

CONFIG = "homeassistant/device/edge-lab-one/config"
DEVICE = Report(("tele", "device"), {"cpu_percent": 1.0})


class HomeAssistant:
    """What Home Assistant makes of device discovery: it adds what is described, removes what has
    nothing but a platform, and leaves alone what is not named."""

    def __init__(self, link: Link) -> None:
        self.entities: set[str] = set()
        self.named: set[str] = set()
        self._link = link
        link.subscribe(CONFIG)

    def models(self) -> set[str]:
        """Those that there are entities of."""
        self._look()
        return {name.split("-")[1] for name in self.entities if name.startswith("model-")}

    def close(self) -> None:
        self._link.disconnect()

    def _look(self) -> None:
        self._link.step(0.05)
        while self._link.received:
            components = msgspec.json.decode(self._link.received.popleft().payload)["cmps"]
            self.named = set(components)
            for name, component in components.items():
                if set(component) > {"p"}:
                    self.entities.add(name)
                else:
                    self.entities.discard(name)


@pytest.fixture
def home(broker: Any) -> Iterator[Callable[[], HomeAssistant]]:
    made: list[HomeAssistant] = []

    def make() -> HomeAssistant:
        made.append(HomeAssistant(broker.connect()))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def device(broker: Any, make_sender: Any) -> Iterator[Callable[[], tuple[Sender, Format]]]:
    """Starts runs of the device; each ends the one before."""
    started: list[Sender] = []

    def start() -> tuple[Sender, Format]:
        if started:
            started.pop().close(5.0)
        sender = make_sender(broker.port, is_started=False)
        settings = Settings(mqtt=Mqtt(formats=("json", "homeassistant")))
        told_as = formats(Outlet(sender, Topics("lab", "one"), settings, None))["homeassistant"]
        sender.start()
        started.append(sender)
        return sender, told_as

    yield start
    for sender in started:
        sender.close(5.0)


def _state(name: str, *, is_gone: bool = False) -> Report:
    return Report(("model", name), {} if is_gone else {"name": name, "state": "ready"}, "retained")


def _two_models(home: Any, device: Any, eventually: Any) -> tuple[HomeAssistant, Format]:
    house = home()
    _, told_as = device()
    told_as.tell([DEVICE, _state("digits"), _state("faces")])
    eventually(lambda: house.models() == {"digits", "faces"}, "both models")
    return house, told_as


def test_entities_go_with_their_model_and_come_back_with_it(
    home: Any, device: Any, eventually: Any
) -> None:
    house, told_as = _two_models(home, device, eventually)
    told_as.tell([DEVICE, _state("faces", is_gone=True)])
    eventually(lambda: house.models() == {"digits"}, "one to go")
    told_as.tell([DEVICE, _state("faces")])
    eventually(lambda: house.models() == {"digits", "faces"}, "it to be back")


def test_entities_go_with_a_model_that_went_while_the_device_was_off(
    home: Any, device: Any, eventually: Any
) -> None:
    house, _ = _two_models(home, device, eventually)
    sender, told_as = device()

    def is_gone() -> bool:
        told_as.tell([DEVICE, _state("digits")])  # as each second
        return house.models() == {"digits"}

    eventually(is_gone, "one to go")
    assert any("model-faces-" in name for name in house.named)
    late = home()
    eventually(lambda: late.models() == {"digits"}, "only what there is, for who comes later")
    eventually(lambda: sender.status().in_flight_count == 0, "all to be sent")
    _, told_as = device()

    def is_named_no_more() -> bool:
        told_as.tell([DEVICE, _state("digits")])
        house.models()
        return not any("model-faces-" in name for name in house.named)

    eventually(is_named_no_more, "the name to go")
    assert house.models() == {"digits"}

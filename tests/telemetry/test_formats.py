"""All formats at once, over real brokers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import LONG_S

from edge.host import ModelStatus, Statistics, Strain
from edge.settings import Mqtt, Power, Settings, Sparkplug
from edge.telemetry import Publisher, publish
from edge.telemetry.address import parse_address
from edge.telemetry.formats._sparkplug.payload import decode
from edge.telemetry.link import Link
from edge.telemetry.sender import Delivery

FAKES = Path(__file__).parent.parent / "fakes"
QUICK = Delivery(first_wait_s=0.02, longest_wait_s=0.1, timeout_s=LONG_S)
ALL = ("json", "homeassistant", "sparkplug")
CONFIG = "homeassistant/device/edge-lab-one/config"

Eventually = Callable[[Callable[[], bool], str], None]


class Models:
    """A runtime of some models."""

    strain: Strain | None = None
    cost = None

    def health(self) -> list[Any]:
        return []

    def __init__(self) -> None:
        self.names = ["digits"]
        self.statistics = Statistics()

    def status(self) -> list[ModelStatus]:
        statistics = self.statistics.snapshot()
        return [ModelStatus(name, "1", "ready", statistics=statistics) for name in self.names]


class Listener:
    """All that comes to a broker, whatever its topic."""

    def __init__(self, url: str, pattern: str) -> None:
        self.received: dict[str, list[bytes]] = {}
        self._link = Link(parse_address(url), timeout_s=LONG_S)
        self._link.open()
        while self._link.state == "connecting":
            self._link.step(LONG_S)
        self._link.subscribe(pattern)

    def of(self, topic: str) -> list[bytes]:
        self._link.step(0.01)
        while self._link.received:
            got = self._link.received.popleft()
            self.received.setdefault(got.topic, []).append(got.payload)
        return self.received.get(topic, [])

    def close(self) -> None:
        self._link.disconnect()


@pytest.fixture
def hear(broker: Any) -> Iterator[Callable[[str], Listener]]:
    made: list[Listener] = []

    def make(pattern: str = "#") -> Listener:
        made.append(Listener(broker.url, pattern))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def start(broker: Any, tmp_path: Path) -> Iterator[Callable[..., Publisher]]:
    started: list[Publisher] = []

    def start(source: Any, formats: tuple[str, ...] = ALL) -> Publisher:
        mqtt = Mqtt(
            url=broker.url,
            fleet="lab",
            device="one",
            interval_s=0.05,
            outbox=str(tmp_path / "outbox"),
            formats=formats,
        )
        power = Power(root=str(FAKES / "raspberry-pi-5"))
        settings = Settings(mqtt=mqtt, power=power, sparkplug=Sparkplug(group="plant"))
        started.append(publish(source, settings, delivery=QUICK))
        return started[-1]

    yield start
    for publisher in started:
        publisher.close(1.0)


def test_each_format_tells_the_same_in_its_own_way(
    hear: Any, start: Any, eventually: Eventually, tmp_path: Path
) -> None:
    heard, models = hear(), Models()
    publisher = start(models)
    json, births = "edge/v1/lab/one/tele/device", "spBv1.0/plant/NBIRTH/one"
    eventually(lambda: bool(heard.of(json) and heard.of(births)), "the device")
    metrics = msgspec.json.decode(heard.of(json)[0])["m"]
    born = {one.name: one.value for one in decode(heard.of(births)[0]).metrics}
    described = msgspec.json.decode(heard.of(CONFIG)[-1])["cmps"]
    for name in ("memory_total_bytes", "disk_total_bytes"):
        assert born[f"device/{name}"] == metrics[name]
        assert described[f"device-{name}"]["unit_of_meas"] == "B"
    eventually(lambda: bool(heard.of("spBv1.0/plant/DBIRTH/one/digits")), "the model")
    publisher.close(LONG_S)
    eventually(lambda: bool(heard.of("spBv1.0/plant/NDEATH/one")), "the goodbye")
    assert (tmp_path / "outbox.bdSeq").read_text() == "0"


def test_a_model_that_goes_is_gone_in_every_format(
    hear: Any, start: Any, eventually: Eventually
) -> None:
    heard, models = hear(), Models()
    models.names.append("faces")
    start(models)
    retained = "edge/v1/lab/one/model/faces"
    eventually(lambda: bool(heard.of("spBv1.0/plant/DBIRTH/one/faces")), "the model")
    eventually(lambda: b"model-faces-state" in heard.of(CONFIG)[-1], "its sensors")
    models.names.remove("faces")
    eventually(lambda: bool(heard.of("spBv1.0/plant/DDEATH/one/faces")), "its death")
    eventually(lambda: heard.of(retained)[-1] == b"", "an empty topic")
    removed = b'"model-faces-state":{"p":"sensor"}'
    eventually(lambda: removed in heard.of(CONFIG)[-1], "its removal")
    assert b'"model-digits-state":{"p":"sensor"}' not in heard.of(CONFIG)[-1]


def test_a_model_that_went_while_the_device_was_off_is_not_left_at_the_broker(
    hear: Any, start: Any, eventually: Eventually
) -> None:
    models, topics = Models(), "edge/v1/lab/one/model/{}".format
    models.names.append("faces")
    heard = hear()
    publisher = start(models, ("json",))
    eventually(lambda: all(heard.of(topics(name)) for name in models.names), "both models")
    publisher.close(LONG_S)
    models.names.remove("faces")
    start(models, ("json",))
    eventually(lambda: heard.of(topics("faces"))[-1] == b"", "an empty topic")
    late = hear("edge/v1/lab/one/model/+")
    eventually(lambda: bool(late.of(topics("digits"))), "the other")
    assert not late.of(topics("faces"))
    assert all(heard.of(topics("digits")))  # was never emptied


def test_home_assistant_that_comes_up_is_told_again(
    hear: Any, start: Any, send: Any, eventually: Eventually
) -> None:
    heard = hear(CONFIG)
    start(Models())
    eventually(lambda: bool(heard.of(CONFIG)), "the description")
    assert len(set(heard.of(CONFIG))) == len(heard.of(CONFIG))

    def is_told_again() -> bool:
        send("homeassistant/status", b"online")  # the device may listen only now
        return len(set(heard.of(CONFIG))) < len(heard.of(CONFIG))

    eventually(is_told_again, "it once more")


def test_only_the_formats_that_are_set_are_told(
    hear: Any, start: Any, eventually: Eventually
) -> None:
    heard = hear()
    start(Models(), ("sparkplug",))
    eventually(lambda: bool(heard.of("spBv1.0/plant/NBIRTH/one")), "a birth")
    eventually(lambda: bool(heard.of("edge/v1/lab/one/status")), "that we are there")
    told = set(heard.received)
    assert not {topic for topic in told if "/tele/" in topic or topic.startswith("homeassistant")}


def test_a_broker_that_comes_back_gets_another_birth(
    broker: Any, hear: Any, start: Any, eventually: Eventually, tmp_path: Path
) -> None:
    start(Models(), ("sparkplug",))
    topic = "spBv1.0/plant/NBIRTH/one"
    first = hear()
    eventually(lambda: bool(first.of("spBv1.0/plant/NDATA/one")), "data")
    broker.stop()
    broker.start()
    heard = hear()
    eventually(lambda: bool(heard.of(topic)), "another birth")
    numbers = [one.value for one in decode(heard.of(topic)[0]).metrics if one.name == "bdSeq"]
    assert numbers == [int((tmp_path / "outbox.bdSeq").read_text())]
    assert numbers[0] > 0

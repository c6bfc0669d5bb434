"""Home Assistant's discovery, against the rules that its documentation states.

Rules: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery (topic, abbreviations, device
discovery, removal, birth message), https://www.home-assistant.io/integrations/sensor.mqtt/,
https://www.home-assistant.io/integrations/sensor/#device-class (units),
https://developers.home-assistant.io/docs/core/entity/sensor/ (which state classes a device class
may have).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge.core.errors import SettingsError
from edge.host import Strain
from edge.sensors import device_sensors
from edge.settings import Mqtt, Settings
from edge.telemetry.envelope import Sealer, encode
from edge.telemetry.formats import Format, Outlet, formats
from edge.telemetry.link import Received
from edge.telemetry.reports import Report
from edge.telemetry.topics import Topics

FAKES = Path(__file__).parent.parent / "fakes"
TOPIC = "homeassistant/device/edge-lab-one/config"
BOTH = ("json", "homeassistant")

# Device class -> units it may have, and state classes it may have.
RULES: dict[str, tuple[set[str], set[str]]] = {
    "temperature": ({"°C", "°F", "K"}, {"measurement"}),
    "power": ({"mW", "W", "kW", "MW", "GW", "TW"}, {"measurement"}),
    "energy": ({"J", "kJ", "Wh", "kWh"}, {"total", "total_increasing"}),
    "data_size": ({"B", "kB", "MB", "MiB"}, {"measurement", "total", "total_increasing"}),
    "duration": (
        {"μs", "ms", "s", "min", "h", "d"},
        {"measurement", "total", "total_increasing"},
    ),
    "frequency": ({"Hz", "kHz", "MHz", "GHz"}, {"measurement"}),
    "monetary": ({"EUR", "USD", "GBP", "CHF"}, {"total"}),
    "timestamp": (set(), set()),
}
OF_A_SENSOR = {
    *("p", "name", "uniq_id", "stat_t", "val_tpl", "dev_cla", "unit_of_meas", "stat_cla"),
    *("ent_cat", "en"),
}
DEVICE = Report(
    ("tele", "device"),
    {
        **device_sensors(FAKES / "jetson-orin-nano").read().metrics(),
        **Strain(missing=("power", "temperature")).summary(),
        "outbox_is_durable": True,
        "outbox_written_bytes": 17,
    },
)
INFO = Report(("info",), {"edge_version": "9.9", "cpu": "Cortex", "arch": "aarch64"}, "retained")


def _state(name: str = "digits", version: str = "1", **fields: Any) -> Report:
    metrics = {"name": name, "version": version, "state": "ready", "is_fallback": False, **fields}
    return Report(("model", name), metrics, "retained")


def _rows(*rows: dict[str, Any]) -> Report:
    return Report(("tele", "model"), {"window_s": 5.0, "models": list(rows)})


ROW = {
    "name": "digits",
    "version": "1",
    "success_count": 7,
    "success_per_s": 1.4,
    "latency_ms": {"infer": {"p99": 1.2}},
}
COST = Report(
    ("tele", "cost"),
    {
        "energy_joules": 3.5,
        "energy_cost_eur": 0.01,
        "currency": "EUR",
        "models": [{"name": "digits", "version": "1", "joules_per_inference": 0.5}],
    },
)
ALL = [INFO, DEVICE, _state(), _rows(ROW), COST]


class Broker:
    """A sender that keeps what is retained, and hands on what a test says has come."""

    def __init__(self) -> None:
        self.retained: dict[str, Any] = {}
        self.repeated: list[str] = []
        self.handlers: dict[str, Callable[[Received], None]] = {}

    def listen(self, pattern: str, handler: Callable[[Received], None]) -> None:
        self.handlers[pattern] = handler

    def retain(self, topic: str, value: Any) -> None:
        self.retained[topic] = value

    def repeat(self, topic: str) -> None:
        self.repeated.append(topic)

    def comes(self, topic: str, payload: bytes) -> None:
        self.handlers[topic](Received(topic, payload, is_retained=True))

    @property
    def config(self) -> Any:
        return msgspec.json.decode(self.retained[TOPIC])

    @property
    def components(self) -> dict[str, Any]:
        return dict(self.config["cmps"])


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def tell(broker: Broker) -> Format:
    return _format(broker)


def _format(broker: Broker, device: str = "one") -> Format:
    outlet = Outlet(broker, Topics("lab", device), Settings(mqtt=Mqtt(formats=BOTH)), None)  # type: ignore[arg-type]
    return formats(outlet)["homeassistant"]


def _named(broker: Broker, name: str) -> dict[str, Any]:
    (component,) = (one for one in broker.components.values() if one.get("name") == name)
    return dict(component)


def _shown(
    component: dict[str, Any], report: Report | None, before: str = "", *, hist: bool = False
) -> str:
    """What Home Assistant makes of a message: the template, with what it knows of there."""
    jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    jinja.filters["as_datetime"] = lambda s: datetime.fromtimestamp(s, timezone.utc)
    known: dict[str, Any] = {"this": SimpleNamespace(state=before)}
    if report is not None:
        envelope = msgspec.structs.replace(Sealer().seal(report.metrics), hist=hist)
        known["value_json"] = msgspec.json.decode(encode(envelope))
    return jinja.from_string(component["val_tpl"]).render(known)


def test_the_device_is_described_once_with_all_its_components(broker: Broker, tell: Format) -> None:
    tell.tell(ALL)
    assert list(broker.retained) == [TOPIC]
    config = broker.config
    assert config["dev"] == {
        "ids": ["edge-lab-one"],
        "name": "one",
        "mf": "edge",
        "mdl": "Cortex",
        "hw": "aarch64",
        "sw": "9.9",
    }
    assert config["o"]["name"] == "edge"  # an origin is required of a device
    assert config["avty"] == [
        {"t": "edge/v1/lab/one/status", "val_tpl": "{{ value_json.m.state }}"}
    ]
    assert set(config) == {"dev", "o", "avty", "qos", "cmps"}


def test_every_component_keeps_the_rules(broker: Broker, tell: Format) -> None:
    tell.tell(ALL)
    components = broker.components
    assert len(components) > 40
    for name, component in components.items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name), name
        assert set(component) <= OF_A_SENSOR, name
        assert component["p"] in ("sensor", "binary_sensor")
        assert component["uniq_id"].startswith("edge-lab-one-")
        assert component["stat_t"].startswith("edge/v1/lab/one/")
        device_class = component.get("dev_cla")
        if device_class:
            units, state_classes = RULES[device_class]
            assert component.get("unit_of_meas", "") in (units or {""}), name
            assert component.get("stat_cla", "") in (state_classes or {""}), name
        assert component.get("stat_cla") in (None, "measurement", "total", "total_increasing")
    assert len({one["uniq_id"] for one in components.values()}) == len(components)
    assert len({one["name"] for one in components.values()}) == len(components)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("temperature celsius cpu-thermal", ("temperature", "°C", "measurement")),
        ("power total watts", ("power", "W", "measurement")),
        ("cost energy joules", ("energy", "J", "total_increasing")),
        ("cost energy cost eur", ("monetary", "EUR", "total")),
        ("digits cost joules per inference", (None, "J", "measurement")),
        ("memory used bytes", ("data_size", "B", "measurement")),
        ("outbox written bytes", ("data_size", "B", "total_increasing")),
        ("gpu percent", (None, "%", "measurement")),
        ("clock now mhz cpu0", ("frequency", "MHz", "measurement")),
        ("digits success count", (None, None, "total_increasing")),
        ("digits success per s", (None, "1/s", "measurement")),
        ("digits latency ms infer p99", ("duration", "ms", "measurement")),
        ("power since ms", ("timestamp", None, None)),
        ("digits state", (None, None, None)),
    ],
)
def test_classes_and_units_are_those_of_the_figure(
    broker: Broker, tell: Format, name: str, expected: tuple[str | None, ...]
) -> None:
    tell.tell(ALL)
    component = _named(broker, name)
    assert tuple(component.get(key) for key in ("dev_cla", "unit_of_meas", "stat_cla")) == expected


@pytest.mark.parametrize(
    ("name", "report", "shown"),
    [
        ("temperature celsius cpu-thermal", DEVICE, "51.1"),
        ("clock limit mhz 17000000.gpu", DEVICE, "625"),
        ("outbox is durable", DEVICE, "ON"),
        ("digits is fallback", _state(), "OFF"),
        ("digits state", _state(), "ready"),
        ("digits success count", _rows(ROW), "7"),
        ("digits latency ms infer p99", _rows(ROW), "1.2"),
        ("digits cost joules per inference", COST, "0.5"),
        ("power missing", DEVICE, "power, temperature"),
        (
            "power since ms",
            Report(DEVICE.path, {"power_since_ms": 1500}),
            "1970-01-01 00:00:01.500000+00:00",
        ),
    ],
)
def test_templates_find_their_values_in_our_json(
    broker: Broker, tell: Format, name: str, report: Report, shown: str
) -> None:
    tell.tell(ALL)
    component = _named(broker, name)
    assert component["stat_t"] == "edge/v1/lab/one/" + "/".join(report.path)
    assert _shown(component, report) == shown


@pytest.mark.parametrize(
    "name", ["temperature celsius cpu-thermal", "outbox is durable", "throttle"]
)
def test_what_is_missing_is_unknown(broker: Broker, tell: Format, name: str) -> None:
    tell.tell([*ALL, Report(DEVICE.path, {**DEVICE.metrics, "throttle": "thermal"})])
    assert _shown(_named(broker, name), Report(DEVICE.path, {})) == "None"


def test_a_model_that_is_not_in_the_message_is_unknown(broker: Broker, tell: Format) -> None:
    tell.tell(ALL)
    assert _shown(_named(broker, "digits success count"), _rows()) == "None"


def test_history_changes_nothing_as_home_assistant_would_take_it_for_now(
    broker: Broker, tell: Format
) -> None:
    tell.tell(ALL)
    shown = {
        name: _shown(_named(broker, name), DEVICE, "before", hist=True)
        for name in ("gpu percent", "outbox is durable", "power level")
    }
    assert shown == {"gpu percent": "", "outbox is durable": "", "power level": "before"}


def test_a_topic_that_was_emptied_changes_nothing(broker: Broker, tell: Format) -> None:
    """Of a message that is no JSON, Home Assistant makes no ``value_json``."""
    tell.tell(ALL)
    shown = {
        name: _shown(_named(broker, name), None, "before")
        for name in ("digits success count", "digits is fallback", "digits state")
    }
    assert shown == {
        "digits success count": "",
        "digits is fallback": "",
        "digits state": "before",
    }


def test_a_text_is_no_longer_than_a_state_may_be(broker: Broker, tell: Format) -> None:
    report = _state(why="x" * 300)
    tell.tell([DEVICE, report])
    assert _shown(_named(broker, "digits why"), report) == "x" * 255


def test_the_version_that_serves_is_read(broker: Broker, tell: Format) -> None:
    rows = _rows(ROW, {**ROW, "version": "2", "success_count": 20})
    tell.tell([DEVICE, _state(), rows])
    assert _shown(_named(broker, "digits success count"), rows) == "7"
    tell.tell([_state(version="2")])
    assert _shown(_named(broker, "digits success count"), rows) == "20"


def test_names_can_not_break_a_template(broker: Broker, tell: Format) -> None:
    evil = "'}}{{ 1/0 }} \\ \" {% é"
    device = Report(("tele", "device"), {"power_watts": {evil: 1.5}})
    rows = _rows({**ROW, "name": evil})
    tell.tell([device, _state(evil), rows])
    assert _shown(_named(broker, f"power watts {evil}"), device) == "1.5"
    assert _shown(_named(broker, f"{evil} success count"), rows) == "7"
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in broker.components)


def test_components_of_a_model_come_and_go_with_it(broker: Broker, tell: Format) -> None:
    tell.tell([DEVICE])
    assert not [one for one in broker.components.values() if one["name"].startswith("digits")]
    tell.tell([_state(), _rows(ROW)])
    names = [name for name in broker.components if name.startswith("model-digits-")]
    assert len(names) == 6
    tell.tell([Report(("model", "digits"), {}, "retained"), _rows()])
    # "If a component config is empty besides the platform, the component is removed."
    assert [broker.components[name] for name in names if "is_fallback" not in name] == [
        {"p": "sensor"}
    ] * 5
    assert broker.components["model-digits-is_fallback"] == {"p": "binary_sensor"}
    tell.tell([_state(), _rows(ROW)])
    assert broker.components["model-digits-success_count"]["stat_cla"] == "total_increasing"


def test_a_model_is_not_taken_for_one_with_a_longer_name(broker: Broker, tell: Format) -> None:
    tell.tell([DEVICE, _state("digits"), _state("digits-small")])
    tell.tell([Report(("model", "digits-small"), {}, "retained")])
    assert broker.components["model-digits--small-state"] == {"p": "sensor"}
    assert broker.components["model-digits-state"]["name"] == "digits state"


def test_a_model_that_went_while_we_were_not_there_is_removed(broker: Broker) -> None:
    earlier = _format(broker)
    earlier.tell([DEVICE, _state("old"), _state()])
    left = broker.retained[TOPIC]
    now = _format(broker)
    broker.comes(TOPIC, left)
    now.tell([DEVICE, _state()])
    assert broker.components["model-old-state"] == {"p": "sensor"}
    assert broker.components["model-digits-state"]["name"] == "digits state"


def test_what_an_earlier_run_has_removed_is_named_no_more(broker: Broker) -> None:
    earlier = _format(broker)
    earlier.tell([DEVICE, _state("old"), _state()])
    earlier.tell([Report(("model", "old"), {}, "retained")])
    left = broker.retained[TOPIC]
    now = _format(broker)
    broker.comes(TOPIC, left)
    now.tell([DEVICE, _state()])
    assert not [name for name in broker.components if name.startswith("model-old-")]


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"\xff", b"[]", b'{"cmps": 3}', b'{"cmps": {"a": []}}'),
        b'{"cmps": ' + b"[" * 5000,
    ],
)
def test_an_earlier_description_that_is_none_is_ignored(broker: Broker, payload: bytes) -> None:
    tell = _format(broker)
    broker.comes(TOPIC, payload)
    tell.tell(ALL)
    assert len(broker.components) > 40


def test_the_device_introduces_itself_when_home_assistant_has_come_up(
    broker: Broker, tell: Format
) -> None:
    tell.tell(ALL)
    broker.comes("homeassistant/status", b"offline")
    assert broker.repeated == []
    broker.comes("homeassistant/status", b"online")
    assert broker.repeated == [TOPIC]


def test_the_same_reports_make_the_same_description(broker: Broker, tell: Format) -> None:
    tell.tell(ALL)
    first = broker.retained[TOPIC]
    for percent in (5.0, 7.5):
        tell.tell([Report(DEVICE.path, {**DEVICE.metrics, "gpu_percent": percent}), _rows(ROW)])
        assert broker.retained[TOPIC] == first


def test_devices_with_odd_names_do_not_share_a_topic() -> None:
    topics = set()
    for device in ("a b", "a.b", "a_b", "a-b", "a--b"):
        broker = Broker()
        _format(broker, device).tell([DEVICE])
        topics |= set(broker.retained)
    assert len(topics) == 5
    assert all(re.fullmatch(r"homeassistant/device/[A-Za-z0-9_-]+/config", t) for t in topics)


def test_home_assistant_without_json_is_refused() -> None:
    settings = Settings(mqtt=Mqtt(formats=("homeassistant",)))
    with pytest.raises(SettingsError, match="json is not on") as caught:
        formats(Outlet(Broker(), Topics("lab", "one"), settings, None))  # type: ignore[arg-type]
    assert 'formats = ["json", "homeassistant"]' in str(caught.value.hint)

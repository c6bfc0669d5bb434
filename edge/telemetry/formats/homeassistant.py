"""Home Assistant's MQTT discovery: says where in our JSON each sensor finds its value.

After https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload, and for classes and
units https://www.home-assistant.io/integrations/sensor/#device-class and
https://developers.home-assistant.io/docs/core/entity/sensor/#available-state-classes.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

import edge
from edge.core.errors import SettingsError
from edge.telemetry.figures import ROWS, Figure, Figures
from edge.telemetry.formats import Format, Outlet
from edge.telemetry.link import Received
from edge.telemetry.quantities import Quantity
from edge.telemetry.reports import Metrics, Report
from edge.telemetry.topics import Topics

PREFIX = "homeassistant"
_STATE_CHARACTERS = 255  # more of them, and Home Assistant takes the state for unknown
_ODD = re.compile(r"[^A-Za-z0-9_-]")
_OF_MODEL = "model-"
_UNTOLD = ("info",)  # it is in the description of the device
_MAIN = ("temperature", "power", "energy", "monetary")
_MAIN_UNITS = ("%", "1/s")
_IS_NEWS = "value_json is defined and not value_json.hist"  # no empty topic, and no history
_NO_NEWS = {"text": "{{ this.state }}", "time": "None"}  # for all others an empty state is none
_SHOWN = {  # x is the value; ``None`` is unknown
    "text": f"none if x is none else (x if x is string else x | join(', '))[:{_STATE_CHARACTERS}]",
    "truth": "none if x is none else 'ON' if x else 'OFF'",
    "time": "none if x is none else (x / 1000) | as_datetime",
}
_MAIN_TEXTS = ("state", "throttle", "power_level", "drift")


class _Retained(msgspec.Struct):
    """What an earlier run left at the broker, as far as it matters."""

    cmps: dict[str, dict[str, Any]] = {}


class HomeAssistantFormat:
    """One retained description of the device, with a component for each figure.

    It needs JSON beside it, which the components read. Those of a model that is gone are told with
    nothing but their platform, which removes them, also of models that went while we were not
    there: the broker gives back what we told then. They are named so until the next start, for a
    Home Assistant that is away for the moment; one that is started anew knows nothing of them.
    """

    def __init__(self, outlet: Outlet) -> None:
        if "json" not in outlet.settings.mqtt.formats:
            raise SettingsError(
                "[mqtt] formats: homeassistant reads the JSON topics, and json is not on",
                hint='write formats = ["json", "homeassistant"]',
            )
        self._sender = outlet.sender
        self._topics = outlet.topics
        self._figures = Figures()
        self._info: Metrics = {}
        self._told: object = None
        self._earlier = 0
        self._platforms: dict[str, str] = {}
        """Component -> platform, of all that were ever told."""
        self._lock = threading.Lock()
        self.topic = f"{PREFIX}/device/{_device_id(outlet.topics)}/config"
        self._sender.listen(self.topic, self._recall)
        self._sender.listen(f"{PREFIX}/status", self._greet)

    def start(self) -> None:
        """There is nothing but the sender."""

    def close(self, timeout_s: float) -> None:
        """There is nothing but the sender; the description stays, as does the status topic."""

    def tell(self, reports: Sequence[Report]) -> None:
        self._figures.take(reports)
        for report in reports:
            if report.path == _UNTOLD:
                self._info = report.metrics
        figures = [figure for figure in self._figures if figure.path != _UNTOLD]
        if not any(figure.path == ("tele", "device") for figure in figures):
            return  # the first sample comes within a second, and the sensors with it
        told = ([(one.model, one.name, one.path, one.quantity) for one in figures], self._info)
        if (told, self._figures.versions, self._earlier) == self._told:
            return  # and save the work, which is done about once a second
        self._told = (told, dict(self._figures.versions), self._earlier)
        components = {
            _component_id(figure): _component(figure, self._figures, self._topics)
            for figure in figures
        }
        removed = self._removed(components)
        config = {**_device(self._topics, self._info), "cmps": {**components, **removed}}
        self._sender.retain(self.topic, msgspec.json.encode(config))

    def _removed(self, components: Metrics) -> Metrics:
        """Those of models that are gone."""
        heads = [_model_id(model) for model in self._figures.versions]
        with self._lock:
            gone = {
                name: {"p": platform}
                for name, platform in self._platforms.items()
                if name not in components
                and name.startswith(_OF_MODEL)
                and not any(_has_head(name, head) for head in heads)
            }
            self._platforms |= {name: one["p"] for name, one in components.items()}
        return gone

    def _recall(self, received: Received) -> None:
        """What is at the broker when we come is what we told the last time."""
        try:
            earlier = msgspec.json.decode(received.payload, type=_Retained)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        with self._lock:
            for name, component in earlier.cmps.items():
                if len(component) > 1:  # the others were removed then
                    self._platforms.setdefault(name, str(component.get("p", "sensor")))
            self._earlier = len(self._platforms)

    def _greet(self, received: Received) -> None:
        """Home Assistant has come up, and asks devices to introduce themselves again."""
        if received.payload == b"online":
            self._sender.repeat(self.topic)


def _device(topics: Topics, info: Metrics) -> Metrics:
    device = {"ids": [_device_id(topics)], "name": topics.device, "mf": "edge"}
    of_info = {"mdl": info.get("cpu"), "hw": info.get("arch"), "sw": info.get("edge_version")}
    return {
        "dev": {**device, **{key: str(value) for key, value in of_info.items() if value}},
        "o": {"name": "edge", "sw": edge.__version__},
        "avty": [{"t": topics.status, "val_tpl": "{{ value_json.m.state }}"}],
        "qos": 1,
    }


def _component(figure: Figure, figures: Figures, topics: Topics) -> Metrics:
    quantity = figure.quantity
    component: Metrics = {
        "p": "binary_sensor" if quantity.kind == "truth" else "sensor",
        "name": _title(figure),
        "uniq_id": f"{_device_id(topics)}-{_component_id(figure)}",
        "stat_t": topics.of(*figure.path),
        "val_tpl": _template(figure, figures.versions.get(figure.model, "")),
        **_classes(quantity),
    }
    if not _is_main(figure):
        component |= {"ent_cat": "diagnostic", "en": False}
    return component


def _classes(quantity: Quantity) -> Metrics:
    """Unit, device class and state class, where Home Assistant has them."""
    told: Metrics = {"dev_cla": quantity.measures} if quantity.measures else {}
    if quantity.unit:
        told["unit_of_meas"] = quantity.unit
    if quantity.kind in ("number", "integer"):
        rising = "total" if quantity.measures == "monetary" else "total_increasing"
        told["stat_cla"] = rising if quantity.is_cumulative else "measurement"
    return told


def _template(figure: Figure, version: str) -> str:
    """The way to a figure in our JSON, and how it is written as a state."""
    if figure.is_of_row:
        chosen = f"selectattr('name', 'eq', {_text(figure.model)})"
        if version:
            chosen += f" | selectattr('version', 'eq', {_text(version)})"
        found = f"(value_json.m.get('{ROWS}', []) | {chosen} | list | last | default({{}}, true))"
    else:
        found = "value_json.m"
    *outer, last = (_text(key) for key in figure.keys)
    value = found + "".join(f".get({key}, {{}})" for key in outer) + f".get({last})"
    kind = figure.quantity.kind
    shown, otherwise = _SHOWN.get(kind, "x"), _NO_NEWS.get(kind)
    otherwise = f"{{% else %}}{otherwise}" if otherwise else ""
    news = f"{{% set x = {value} %}}{{{{ {shown} }}}}"
    return f"{{% if {_IS_NEWS} %}}{news}{otherwise}{{% endif %}}"


def _is_main(figure: Figure) -> bool:
    """Whether it is shown without being asked for; the rest can be switched on."""
    quantity = figure.quantity
    if quantity.kind == "text":
        return figure.keys[-1] in _MAIN_TEXTS
    return quantity.measures in _MAIN or quantity.unit in _MAIN_UNITS or quantity.kind == "truth"


def _title(figure: Figure) -> str:
    words = (figure.model, "" if figure.group in ("", "device") else figure.group, *figure.keys)
    return " ".join(word.replace("_", " ") for word in words if word)


def _device_id(topics: Topics) -> str:
    return _identifier("edge", topics.fleet, topics.device)


def _model_id(model: str) -> str:
    return f"{_OF_MODEL}{_identifier(model)}-"


def _has_head(name: str, head: str) -> bool:
    """A doubled dash is one of a longer name."""
    return name.startswith(head) and not name.startswith(f"{head}-")


def _component_id(figure: Figure) -> str:
    head = _model_id(figure.model) if figure.model else ""
    return head + _identifier(*((figure.group,) if figure.group else ()), *figure.keys)


def _identifier(*parts: str) -> str:
    """Of letters, digits, _ and -, and another for other parts."""
    name = "-".join(part.replace("-", "--") for part in parts)
    plain = _ODD.sub("_", name)
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _text(text: str) -> str:
    """As a literal of Jinja, whose strings are like those of Python."""
    return repr(text)


FORMAT: type[Format] = HomeAssistantFormat

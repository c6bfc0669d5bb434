"""An edge node's words, without a broker: numbers, births, and what of the figures is told when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.core.errors import SettingsError
from edge.settings import Mqtt, Settings, Sparkplug
from edge.telemetry.figures import Figure, Figures
from edge.telemetry.formats import Outlet, formats
from edge.telemetry.formats._sparkplug.births import Births
from edge.telemetry.formats._sparkplug.payload import DataType, decode
from edge.telemetry.formats._sparkplug.primary_host import PrimaryHost
from edge.telemetry.formats._sparkplug.recorder import Recorder, State, Told
from edge.telemetry.formats._sparkplug.session import Message, Names, Session
from edge.telemetry.reports import Report
from edge.telemetry.topics import Topics

NAMES = Names("lab", "one")


def _figures(cpu: float | None = 1.0, **models: int) -> list[Figure]:
    figures = Figures()
    device = {"temperature_celsius": {"cpu": 50.0}, "power_level": "free", "cpu_percent": 0.0}
    figures.take([Report(("tele", "device"), device)])
    figures.take([Report(("tele", "device"), {**device, "cpu_percent": cpu})])
    for name, count in models.items():
        state = {"name": name, "version": "1", "is_fallback": False}
        row = {"name": name, "version": "1", "success_count": count}
        figures.take([Report(("model", name), state, "retained")])
        figures.take([Report(("tele", "model"), {"models": [row]})])
    return list(figures)


class Node:
    """A session with what it is told, as over a connection that is there."""

    def __init__(self, birth_number: int = 0) -> None:
        self.session = Session(NAMES, birth_number)
        self._recorder = Recorder()
        self._number = 0

    @property
    def state(self) -> State:
        return State(self._recorder.values, self._number)

    def birth(self, figures: list[Figure], now_ms: int = 0) -> list[Message]:
        self._number += len(self._recorder.look(figures))
        return self.session.birth(self.state, now_ms)

    def data(self, figures: list[Figure], now_ms: int = 0) -> list[Message]:
        changes = self._recorder.look(figures)
        numbered = list(enumerate(changes, self._number + 1))
        self._number += len(changes)
        messages = self.session.follow(self.state, now_ms)
        for number, (device, change) in numbered:
            told = Told(device, change, number, now_ms, has_waited=False)
            messages += self.session.data(told, now_ms)
        return messages

    def note(self, event: str, now_ms: int = 0, **metrics: Any) -> list[Message]:
        device, change = self._recorder.note(event, metrics, now_ms)
        self._number += 1
        messages = self.session.follow(self.state, now_ms)
        told = Told(device, change, self._number, now_ms, has_waited=False)
        return messages + self.session.data(told, now_ms)


def _said(messages: list[Message]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (
            message.topic.removeprefix("spBv1.0/lab/"),
            {one.name: one.value for one in decode(message.payload).metrics},
        )
        for message in messages
    ]


def _seqs(messages: list[Message]) -> list[int | None]:
    return [decode(message.payload).seq for message in messages]


def test_a_birth_names_all_there_is_with_its_type() -> None:
    node, device = Node(7).birth(_figures(digits=3), 5)
    assert (node.topic, device.topic) == ("spBv1.0/lab/NBIRTH/one", "spBv1.0/lab/DBIRTH/one/digits")
    assert {one.name: (one.type, one.value) for one in decode(node.payload).metrics} == {
        "bdSeq": (DataType.INT64, 7),
        "Node Control/Rebirth": (DataType.BOOLEAN, False),
        "device/temperature_celsius/cpu": (DataType.DOUBLE, 50.0),
        "device/power_level": (DataType.STRING, "free"),
        "device/cpu_percent": (DataType.DOUBLE, 1.0),
        "event/command": (DataType.STRING, None),
        "event/gap": (DataType.STRING, None),
    }
    assert {one.name: (one.type, one.value) for one in decode(device.payload).metrics} == {
        "version": (DataType.STRING, "1"),
        "is_fallback": (DataType.BOOLEAN, False),
        "success_count": (DataType.INT64, 3),
    }


def test_only_what_has_changed_is_told() -> None:
    session = Node()
    session.birth(_figures(digits=3), 5)
    assert session.data(_figures(digits=3), 6) == []
    assert _said(session.data(_figures(2.0, digits=4), 7)) == [
        ("NDATA/one", {"device/cpu_percent": 2.0}),
        ("DDATA/one/digits", {"success_count": 4}),
    ]
    assert session.data(_figures(2.0, digits=4), 8) == []


def test_what_is_not_known_any_more_is_null() -> None:
    session = Node()
    session.birth(_figures(), 5)
    assert _said(session.data(_figures(None), 6)) == [("NDATA/one", {"device/cpu_percent": None})]


def test_a_device_that_comes_is_born_and_one_that_goes_dies() -> None:
    session = Node()
    session.birth(_figures(digits=3), 5)
    messages = session.data(_figures(faces=1), 6)
    assert [topic for topic, _ in _said(messages)] == ["DDEATH/one/digits", "DBIRTH/one/faces"]
    assert _said(messages)[0][1] == {}
    assert _seqs(messages) == [2, 3]


def test_a_metric_that_no_birth_has_named_takes_another_birth() -> None:
    session = Node()
    first = _figures(digits=3)
    session.birth(first, 5)
    figures = Figures()
    figures.take([Report(("model", "digits"), {"name": "digits", "why": "new"}, "retained")])
    more = [one for one in figures if one.name == "why"]
    assert [topic for topic, _ in _said(session.data(first + more, 6))] == ["DBIRTH/one/digits"]
    figures = Figures()
    figures.take([Report(("tele", "device"), {"fan_rpm": 900})])
    messages = session.data([*first, *more, *figures], 7)
    assert [topic for topic, _ in _said(messages)] == ["NBIRTH/one", "DBIRTH/one/digits"]
    assert _seqs(messages) == [0, 1]


def test_events_are_told_of_whom_they_are_about() -> None:
    session = Node()
    session.birth(_figures(digits=3, load=1), 5)
    told = [
        session.note("drift", 6, name="digits", to="drifted"),
        session.note("command", 7, name="load", model="digits"),  # a verb that a model is named as
        session.note("command", 8, name="power"),
    ]
    assert [_said(messages)[-1][0] for messages in told] == [
        "DDATA/one/digits",
        "DDATA/one/digits",
        "NDATA/one",
    ]
    assert _said(told[2])[0][1] == {"event/command": '{"name":"power"}'}


def test_history_that_no_birth_names_or_of_another_type_is_left_out() -> None:
    session = Node()
    session.birth(_figures(digits=3), 5)
    change = {"device/cpu_percent": 7.0, "device/power_level": 3, "gone": 1, "bdSeq": True}
    told = Told("", change, 1, 4, has_waited=True)
    (message,) = session.session.data(told, 6)
    (metric,) = decode(message.payload).metrics
    assert (metric.name, metric.value, metric.timestamp_ms) == ("device/cpu_percent", 7.0, 4)
    assert not session.session.data(Told("gone", {"a": 1}, 2, 4, has_waited=True), 6)


def test_numbers_go_on_over_node_and_devices_and_after_255_comes_0() -> None:
    session = Node()
    messages = session.birth(_figures(digits=0), 0)
    for index in range(2, 302):
        messages += session.data(_figures(float(index), digits=index), index)
    assert _seqs(messages) == [number % 256 for number in range(602)]


def test_names_that_no_topic_may_have_are_spelled_otherwise() -> None:
    topics = [message.topic for message in Node().birth(_figures(**{"a/b+c#": 1}), 0)]
    assert topics[1] == "spBv1.0/lab/DBIRTH/one/a_b_c_"


def test_sessions_are_counted_over_restarts_and_after_255_comes_0(tmp_path: Path) -> None:
    path = tmp_path / "below" / "node.bdSeq"
    assert [Births(path).next() for _ in range(3)] == [0, 1, 2]
    path.write_text("254")
    births = Births(path)
    assert [births.next() for _ in range(3)] == [255, 0, 1]


@pytest.mark.parametrize("damage", [b"", b"many", b"-1", b"256", b"\xff\xff"])
def test_a_damaged_count_begins_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "node.bdSeq"
    path.write_bytes(damage)
    assert Births(path).next() == 0
    assert path.read_bytes() == b"0"


def test_a_count_that_can_not_be_kept_goes_on_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    births = Births(tmp_path / "file" / "node.bdSeq")
    assert [births.next() for _ in range(3)] == [0, 1, 2]
    assert len([one for one in caplog.records if "kept" in one.message]) == 1


def test_a_host_is_believed_unless_its_word_is_older_at_that_broker() -> None:
    host = PrimaryHost("scada")
    assert host.topic == "spBv1.0/STATE/scada"
    assert host.take(b'{"online": true, "timestamp": 10}', "a") is True
    assert host.take(b'{"online": false, "timestamp": 9}', "a") is None
    assert host.take(b'{"online": false, "timestamp": 9}', "b") is False
    assert host.take(b'{"online": false, "timestamp": 10}', "a") is False


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"ONLINE", b"\xff", b"{}", b'{"online": 1, "timestamp": 1}', b"[]"),
        *(b'{"online": true}', b'{"online": true, "timestamp": 1, "more": ' + b"[" * 5000),
    ],
)
def test_a_state_that_is_none_is_not_believed(payload: bytes) -> None:
    assert PrimaryHost("scada").take(payload, "a") is None


@pytest.mark.parametrize("name", ["a/b", "a+", "#"])
def test_names_with_wildcards_are_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="no topic"):
        msgspec.toml.decode(f'[sparkplug]\ngroup = "{name}"', type=Settings)


def test_a_group_named_state_is_refused() -> None:
    settings = Settings(
        mqtt=Mqtt(url="mqtt://nowhere", formats=("sparkplug",)), sparkplug=Sparkplug(group="STATE")
    )
    with pytest.raises(SettingsError, match="STATE"):
        formats(Outlet(None, Topics("lab", "one"), settings, None))  # type: ignore[arg-type]

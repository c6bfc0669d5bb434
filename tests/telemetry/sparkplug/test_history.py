"""Nothing is lost at QoS 0: changes and events of an outage come as historical after the birth.

The node waits for its primary host: what is sent while nobody listens would be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.telemetry.address import BrokerAddress
from edge.telemetry.figures import Figure, Figures
from edge.telemetry.formats._sparkplug.births import Births
from edge.telemetry.formats._sparkplug.history import History
from edge.telemetry.formats._sparkplug.node import EdgeNode, Pace
from edge.telemetry.formats._sparkplug.primary_host import PrimaryHost
from edge.telemetry.formats._sparkplug.session import Names
from edge.telemetry.reports import Report

NAMES = Names("Group", "Node")
QUICK = Pace(first_wait_s=0.02, longest_wait_s=0.1)
CPU = "device/cpu_percent"


def _figures(percent: float, *models: str) -> list[Figure]:
    figures = Figures()
    figures.take([Report(("tele", "device"), {"cpu_percent": percent})])
    figures.take([Report(("model", name), {"name": name, "state": "ready"}) for name in models])
    return list(figures)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[BrokerAddress], EdgeNode]]:
    """Starts runs of one device; each ends the one before."""
    running: list[EdgeNode] = []

    def start(address: BrokerAddress) -> EdgeNode:
        if running:
            running.pop().close(5.0)
        history = History(tmp_path / "node.sparkplug")
        scada = PrimaryHost("Scada")
        node = EdgeNode((address,), NAMES, Births(None), history, host=scada, pace=QUICK)
        running.append(node)
        running[-1].start()
        return running[-1]

    yield start
    for node in running:
        node.close(5.0)


@pytest.fixture
def listen(host: Any) -> Callable[[Any], Any]:
    """A primary host that is online."""

    def listen(broker: Any) -> Any:
        listener = host(broker)
        listener.state("Scada", online=True, timestamp=1)
        return listener

    return listen


def _values(host: Any, name: str) -> list[Any]:
    """What came of a number, of now and of the past, in order."""
    return [metric.double_value for metric, _ in _came(host, name)]


def _kinds(host: Any, name: str) -> list[str]:
    return [kind for _, kind in _came(host, name)]


def _came(host: Any, name: str) -> list[tuple[Any, str]]:
    return [
        (metric, topic.split("/")[2])
        for topic, payload, _ in list(host.received)
        if topic.split("/")[2] in ("NBIRTH", "DBIRTH", "NDATA", "DDATA")
        for metric in host.proto.FromString(payload).metrics
        if metric.name == name
    ]


def test_what_was_while_the_broker_was_away_comes_in_order_after_the_birth(
    start_mosquitto: Any, listen: Any, start: Any, eventually: Any
) -> None:
    broker = start_mosquitto()
    node = start(BrokerAddress("127.0.0.1", broker.port))
    listener = listen(broker)
    node.tell(_figures(1.0, "digits"))
    eventually(lambda: listener.kinds() == ["NBIRTH", "DBIRTH"], "the birth")
    broker.stop()
    for percent in (2.0, 3.0):
        node.tell(_figures(percent, "digits"))
    node.note("drift", {"name": "digits", "to": "drifted"})
    node.note("drift", {"name": "digits", "to": "stable"})
    node.note("command", {"name": "load", "id": "a", "status": "successful"})
    node.tell(_figures(4.0, "digits"))
    broker.start()
    back = listen(broker)
    eventually(lambda: len(back.history("event/drift")) == 2, "history")
    eventually(lambda: back.history(CPU)[-1:] and back.history(CPU)[-1].double_value == 4.0, "all")
    assert back.kinds()[-2:] == ["NBIRTH", "DBIRTH"]  # what is now was told by these
    told = [metric.double_value for metric in back.history(CPU)]
    assert told[-3:] == [2.0, 3.0, 4.0]
    assert told[:-3] in ([], [1.0])  # the broker went before it had said that it has this
    times = [metric.timestamp for metric in back.history(CPU)]
    assert times == sorted(times)
    drifts = [msgspec.json.decode(one.string_value)["to"] for one in back.history("event/drift")]
    assert drifts == ["drifted", "stable"]
    (command,) = back.history("event/command")
    assert msgspec.json.decode(command.string_value)["status"] == "successful"
    (born,) = [metric for metric, kind in _came(back, CPU) if kind == "NBIRTH"]
    assert (born.double_value, born.is_historical) == (4.0, False)


def test_what_an_earlier_run_could_not_tell_is_told_by_the_next(
    start_mosquitto: Any, listen: Any, start: Any, eventually: Any
) -> None:
    broker = start_mosquitto()
    address = BrokerAddress("127.0.0.1", broker.port)
    broker.stop()
    node = start(address)
    for percent in (1.0, 2.0):
        node.tell(_figures(percent, "digits", "gone"))
    node = start(address)
    node.tell(_figures(9.0, "digits"))
    broker.start()
    listener = listen(broker)
    eventually(lambda: len(listener.history(CPU)) >= 2, "history")
    assert [one.double_value for one in listener.history(CPU)][:2] == [1.0, 2.0]
    assert not any("/gone" in topic for topic, _, _ in listener.received)  # no birth names it


def test_each_change_comes_though_the_connection_is_cut_again_and_again(
    start_mosquitto: Any, wire: Any, listen: Any, start: Any, eventually: Any
) -> None:
    broker = start_mosquitto()
    line, listener = wire(broker), listen(broker)
    node = start(line.address)
    for number in range(100):
        node.tell(_figures(float(number)))
        if number % 20 == 10:
            eventually(lambda n=number: float(n) in _values(listener, CPU), "it to be told")
            line.cut()
    eventually(lambda: set(_values(listener, CPU)) == set(range(100)), "all of them")


def test_what_the_broker_has_is_not_told_again(
    start_mosquitto: Any, wire: Any, listen: Any, start: Any, eventually: Any
) -> None:
    broker = start_mosquitto()
    line, listener = wire(broker), listen(broker)
    node = start(line.address)
    node.tell(_figures(1.0))
    eventually(lambda: listener.kinds() == ["NBIRTH"], "the birth")
    for percent in (2.0, 3.0):
        node.tell(_figures(percent))
    eventually(lambda: _values(listener, CPU)[-1:] == [3.0], "data")
    waiting = node._history._backlog.status
    eventually(lambda: not waiting().waiting_bytes, "the broker to say that it has it")
    line.cut()
    eventually(lambda: listener.kinds()[-2:] == ["NDEATH", "NBIRTH"], "another birth")
    node.tell(_figures(4.0))
    eventually(lambda: _values(listener, CPU)[-1:] == [4.0], "data")
    assert [one.double_value for one in listener.history(CPU)] == [1.0]  # waited for the birth


def test_events_are_metrics_of_their_model_and_none_is_passed_over(
    start_mosquitto: Any, listen: Any, start: Any, eventually: Any
) -> None:
    broker = start_mosquitto()
    listener = listen(broker)
    node = start(BrokerAddress("127.0.0.1", broker.port))
    node.tell(_figures(1.0, "digits"))
    eventually(lambda: listener.kinds() == ["NBIRTH", "DBIRTH"], "the birth")
    for _ in range(3):  # all say the same
        node.note("drift", {"name": "digits", "to": "drifted"})
    node.note("gap", {"reason": "age"})
    eventually(lambda: _kinds(listener, "event/drift").count("DDATA") == 3, "three")
    eventually(lambda: _kinds(listener, "event/gap").count("NDATA") == 1, "one of the node")
    (gap,) = [one for one, kind in _came(listener, "event/gap") if kind == "NDATA"]
    assert msgspec.json.decode(gap.string_value) == {"reason": "age"}
    assert _kinds(listener, "event/drift")[0] == "DBIRTH"

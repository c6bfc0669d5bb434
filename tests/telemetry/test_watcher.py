from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from free_ports import free_port
from patience import LONG_S

from edge.core.errors import SettingsError, UnavailableError
from edge.telemetry.envelope import Sealer, encode
from edge.telemetry.watcher import Watcher

SEALER = Sealer()


def message(**metrics: Any) -> bytes:
    return encode(SEALER.seal(metrics))


def test_watcher_gets_what_is_retained_and_what_comes(
    listen: Callable[[], Any], send: Callable[..., None]
) -> None:
    send("edge/v1/f/d/status", message(state="online"), is_retained=True)
    listener = listen()
    status = listener.until(lambda arrival: arrival.path == "status")
    assert status.is_retained
    assert (status.fleet, status.device, status.metrics) == ("f", "d", {"state": "online"})
    send("edge/v1/f/d/tele/device", message(cpu_percent=3.5))
    sample = listener.until(lambda arrival: arrival.path == "tele/device")
    assert not sample.is_retained
    assert sample.metrics == {"cpu_percent": 3.5}
    assert sample.envelope.boot == SEALER.boot


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b'{"v":1}',
        message(state="x").replace(b'"v":1', b'"v":2'),
        message(state="x").replace(b'{"state":"x"}', b"[]"),
    ],
)
def test_watcher_leaves_out_what_it_can_not_read(
    listen: Callable[[], Any], send: Callable[..., None], payload: bytes
) -> None:
    listener = listen()
    send("edge/v1/f/d/status", payload)
    send("edge/v1/f/d/status", message(state="fine"))
    assert listener.until(lambda _: True).metrics == {"state": "fine"}


def test_watcher_follows_only_the_device_that_is_named(
    broker: Any, send: Callable[..., None]
) -> None:
    with Watcher(broker.url, "f", "one", timeout_s=LONG_S) as watcher:
        for device in ("two", "one"):
            send(f"edge/v1/f/{device}/status", message(state=device), is_retained=True)
        arrivals = watcher.messages()
        assert next(arrivals).metrics == {"state": "one"}


def test_watcher_finds_a_broker_that_came_back(
    broker: Any,
    listen: Callable[[], Any],
    send: Callable[..., None],
    eventually: Callable[..., None],
) -> None:
    listener = listen()
    watcher = listener.watcher
    broker.stop()
    eventually(lambda: watcher.poll(0.05) == [] and watcher.error != "", "the loss to be noticed")
    assert not watcher.is_connected
    broker.start()
    send("edge/v1/f/d/status", message(state="back"), is_retained=True)
    assert listener.until(lambda _: True).metrics == {"state": "back"}
    assert watcher.is_connected
    assert watcher.error == ""


def test_absent_broker_is_unavailable_and_says_how_to_name_another() -> None:
    port = free_port()
    with pytest.raises(UnavailableError, match=f"mqtt://127.0.0.1:{port}") as caught:
        Watcher(f"mqtt://127.0.0.1:{port}").open()
    assert "--mqtt" in caught.value.hint


def test_broker_that_never_answers_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UnavailableError, match="no answer"):
            Watcher(url, timeout_s=0.2).open()


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "a\0b"])
def test_watcher_refuses_names_that_no_topic_has(name: str) -> None:
    with pytest.raises(SettingsError, match="fleet"):
        Watcher("mqtt://localhost", name)


def test_messages_end_after_the_seconds_that_were_asked_for(broker: Any) -> None:
    with Watcher(broker.url, timeout_s=LONG_S) as watcher:
        assert list(watcher.messages(seconds=0.01)) == []


def test_closed_watcher_has_no_more_messages(broker: Any) -> None:
    with Watcher(broker.url, timeout_s=LONG_S) as watcher:
        pass
    watcher.close()
    assert list(watcher.messages()) == []


def test_watcher_looks_at_the_first_broker_that_answers(
    broker: Any, send: Callable[..., None]
) -> None:
    absent = f"mqtt://127.0.0.1:{free_port()}"
    with Watcher(f"{absent},{broker.url}", timeout_s=LONG_S) as watcher:
        assert str(watcher.address) == broker.url
        send("edge/v1/f/d/status", message(state="there"))
        assert next(watcher.messages()).metrics == {"state": "there"}
    with pytest.raises(UnavailableError) as caught:
        Watcher([absent, absent]).open()
    assert str(caught.value).count(f"{absent}: Connection refused") == 2


def test_watcher_goes_on_with_the_other_broker_when_one_is_gone(
    mosquitto: Any, eventually: Callable[..., None]
) -> None:
    first, second = mosquitto(), mosquitto()
    with Watcher([first.url, second.url], timeout_s=LONG_S) as watcher:
        first.stop()
        eventually(lambda: watcher.poll(0.05) == [] and not watcher.is_connected, "the loss")
        eventually(lambda: watcher.poll(0.05) == [] and watcher.is_connected, "the other")
        assert str(watcher.address) == second.url


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_watcher_sees_a_fleet_of_which_more_is_retained_than_a_broker_queues(
    broker: Any, listen: Callable[[], Any]
) -> None:
    count = 1_500  # mosquitto's max_queued_messages is 1,000
    link = broker.connect()
    for number in range(count):
        link.send(f"edge/v1/f/d{number}/status", message(state="online"), is_retained=True)
    acknowledged = 0
    while acknowledged < count:
        link.step(1.0)
        assert link.is_open
        acknowledged += len(link.acknowledged())
    link.disconnect()
    listener, seen = listen(), set()
    while len(seen) < count:
        seen.add(listener.until(lambda arrival: arrival.is_retained).device)

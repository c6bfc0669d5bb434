"""Several brokers in order; and a folder for the outbox that comes later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S

from edge.telemetry import backlog as backlog_module
from edge.telemetry.outbox import Bounds, DiskFiles
from edge.telemetry.topics import Topics

TOPICS = Topics("lab", "one")
LIMIT = 4000
CONNACK = b"\x20\x02\0\0"

Eventually = Callable[[Callable[[], bool], str], None]


def _topic(number: int) -> str:
    return TOPICS.of("tele", f"n{number}")


def _urls(*controls: Any) -> list[str]:
    return [control.url for control in controls]


def test_messages_go_on_at_the_next_broker_and_none_is_lost(
    mosquitto: Any, read: Any, make_sender: Any, eventually: Eventually
) -> None:
    first, second = mosquitto(), mosquitto()
    at_first, at_second = read(first), read(second)
    sender = make_sender(_urls(first, second), longest_wait_s=0.5)
    for number in range(20):
        sender.send(_topic(number), {"number": number})
    eventually(lambda: len(at_first.numbers()) == 20, "the first broker to have them")
    assert at_second.numbers() == []
    first.stop()
    for number in range(20, 40):
        sender.send(_topic(number), {"number": number})
    eventually(lambda: 39 in at_second.numbers(), "the second broker to have the others")
    assert at_first.numbers() == list(range(20))
    got = [number for number in at_second.numbers() if number >= 20]
    assert got == list(range(20, 40))
    assert sender.status().broker == second.url
    assert sender.backlog.status().dropped_count == 0


def test_first_broker_is_returned_to_once_it_accepts_us(
    mosquitto: Any, read: Any, make_sender: Any, eventually: Eventually, caplog: Any
) -> None:
    first, second = mosquitto(), mosquitto()
    first.stop()
    at_second = read(second)
    sender = make_sender(_urls(first, second), look_back_s=0.2)
    sender.retain(TOPICS.of("info"), {"what": "kept"})
    eventually(lambda: sender.state == "connected", "the second broker")
    sender.send(_topic(0), {"number": 0})
    eventually(lambda: at_second.numbers() == [0], "the message")
    first.start()
    eventually(lambda: sender.status().broker == first.url, "the return")
    eventually(lambda: sender.state == "connected", "the first broker")
    at_first = read(first)
    sender.send(_topic(1), {"number": 1})
    eventually(lambda: at_first.numbers() == [1], "the next message")
    assert any(arrival.path == "info" for arrival in at_first.arrivals)
    expected = [("online", ""), ("offline", "moved to another broker")]
    eventually(lambda: at_second.states()[-2:] == expected, "goodbye")
    warned = [record.message for record in caplog.records]
    assert f"as another is not there: {first.url}: Connection refused" in warned[0]
    assert warned[1:] == [f"telemetry goes to {first.url} again"]


def test_broker_that_answers_and_does_not_accept_us_is_not_returned_to(
    mosquitto: Any, make_sender: Any, eventually: Eventually, serve: Any
) -> None:
    refusing = serve(lambda data: b"\x20\x02\0\x05")
    second = mosquitto()
    urls = [f"mqtt://127.0.0.1:{refusing.port}", second.url]
    sender = make_sender(urls, look_back_s=0.05)
    eventually(lambda: sender.state == "connected", "the second broker")
    eventually(lambda: len(refusing.connections) >= 2, "it to be asked again")
    assert (sender.state, sender.status().broker) == ("connected", second.url)
    assert sender.status().connection_count == 1


def test_all_reasons_are_told_when_no_broker_is_there(
    serve: Any, make_sender: Any, eventually: Eventually, mosquitto: Any
) -> None:
    gone = mosquitto()
    gone.stop()
    refusing = serve(lambda data: b"\x20\x02\0\x05")
    sender = make_sender([gone.url, f"mqtt://127.0.0.1:{refusing.port}"])
    eventually(lambda: sender.state == "refused", "the end of a round")
    assert sender.reason == (
        f"{gone.url}: Connection refused; mqtt://127.0.0.1:{refusing.port}: Not authorized"
        " (is user:password@ in its URL right?)"
    )


def test_subscription_is_renewed_after_a_reconnect_and_at_another_broker(
    mosquitto: Any, make_sender: Any, eventually: Eventually
) -> None:
    first, second = mosquitto(), mosquitto()
    heard: list[bytes] = []
    sender = make_sender(_urls(first, second), is_started=False, longest_wait_s=0.5)
    sender.listen(TOPICS.of("cmd") + "/#", lambda received: heard.append(received.payload))
    sender.start()

    def ask(control: Any, text: str) -> None:
        eventually(lambda: sender.status().broker == control.url, "the broker")
        eventually(lambda: sender.state == "connected", "a connection")
        link = control.connect()
        link.send(TOPICS.of("cmd", "x"), text.encode(), is_retained=True)
        link.step(0.1)
        link.disconnect()
        eventually(lambda: heard[-1:] == [text.encode()], text)

    ask(first, "at the first")
    first.stop()
    ask(second, "at the second")
    second.stop()
    eventually(lambda: sender.state != "connected", "the loss")
    second.start()
    ask(second, "there again")
    sender.close(LONG_S)


def test_folder_that_can_be_used_later_takes_over_what_is_in_memory(
    broker: Any,
    proxy: Any,
    read: Any,
    make_sender: Any,
    eventually: Eventually,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(backlog_module, "DISK_RETRY_S", 0.05)
    folder = tmp_path / "outbox"
    other = DiskFiles(folder)
    reader = read(broker)
    proxy.is_open = False
    sender = make_sender(proxy.port, folder=folder, bounds=Bounds(memory_bytes=20_000))
    for number in range(60):
        sender.send(_topic(number), {"number": number})
    dropped = sender.backlog.status().dropped_count
    assert dropped > 0
    assert not sender.backlog.status().is_durable
    other.release()
    eventually(lambda: sender.backlog.status().is_durable, "the folder")
    assert sender.backlog.status().dropped_count == dropped
    sender.send(_topic(60), {"number": 60})
    assert sender.backlog.commit()
    proxy.is_open = True
    eventually(lambda: len(set(reader.numbers())) == 61 - dropped, "all that was left")
    assert sorted(set(reader.numbers())) == list(range(dropped, 61))
    assert [gap["count"] for gap in reader.gaps()] == [dropped]
    assert f"is kept in {folder} from now on" in caplog.text

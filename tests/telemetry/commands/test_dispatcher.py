"""Commands over a real broker, from the first word to the last."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from patience import LONG_S

from edge.host import Runtime
from edge.telemetry import clock
from edge.telemetry.commands.judging import Judge
from edge.telemetry.commands.order import Order, RefusedError
from edge.telemetry.commands.verb import Result


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_load_is_done_and_told_with_all_that_came(
    start: Any, operator: Any, runtime: Runtime, version: str
) -> None:
    start(version=version, load=True)
    operator.order("load/a-1", model="digits", x_ticket={"nr": 7})
    executing = operator.answer("load/a-1", "executing")
    assert executing["model"] == "digits"
    answer = operator.answer("load/a-1")
    assert answer["status"] == "successful"
    assert answer["x_ticket"] == {"nr": 7}
    assert answer["result"]["version"] == "2"
    assert runtime.status_of("digits").state == "ready"
    assert operator.event(id="a-1")["status"] == "successful"


@pytest.mark.parametrize(
    ("path", "payload", "kind", "part"),
    [
        ("load/a", b"nonsense", "invalid", "can not be read"),
        ("load/a", b"[1]", "invalid", "can not be read"),
        ("load/a", b'{"model": "\xff"}', "invalid", "can not be read"),
        ("load/a", b'{"a":' * 5000, "invalid", "can not be read"),
        ("load/a", b'{"model": "digits"}', "invalid", "no status"),
        ("load/a", b'{"status": "started", "model": "digits"}', "invalid", "'started'"),
        ("load/a", b'{"status": "init"}', "invalid", "model"),
        ("load/a", b'{"status": "init", "model": 3}', "invalid", "str"),
        ("load/a", b'{"status": "init", "model": "digits", "verison": "1"}', "invalid", "verison"),
        ("load/a", b'{"status": "init", "model": "digits", "expires": "x"}', "invalid", "expires"),
        ("load/a", b'{"status": "init", "x_": "' + b"a" * 40_000 + b'"}', "invalid", "more than"),
        ("load/a b", b'{"status": "init", "model": "digits"}', "invalid", "id"),
        ("load/" + "a" * 65, b'{"status": "init", "model": "digits"}', "invalid", "id"),
        ("load/a", b'{"status": "init", "model": "other"}', "not-found", "other"),
        ("unload/a", b'{"status": "init", "model": "digits"}', "not-allowed", "not allowed"),
        ("explode/a", b'{"status": "init"}', "unsupported", "explode"),
    ],
)
def test_bad_command_fails_with_a_reason(
    start: Any, operator: Any, path: str, payload: bytes, kind: str, part: str
) -> None:
    start(load=True)
    operator.send(f"cmd/{path}", payload)
    answer = operator.answer(path, "failed")
    assert (answer["kind"], part in answer["reason"]) == (kind, True), answer


def listens(operator: Any) -> None:
    """The device hears commands from now on in their order; what is retained comes in any."""
    operator.order("no-such-verb/hello")
    assert operator.answer("no-such-verb/hello", "failed")["kind"] == "unsupported"


def test_same_id_again_is_told_the_same_end_and_not_run(
    start: Any, operator: Any, gated: Any
) -> None:
    gated.gate.set()
    start(load=True)
    operator.order("load/a", model="m")
    first = operator.answer("load/a")
    operator.order("load/a", model="another")
    assert operator.answer("load/a") == first
    operator.order("load/a", model="m")
    assert operator.answer("load/a") == first
    assert gated.ids == ["a"]


def test_command_that_runs_is_told_again_when_its_topic_is_overwritten(
    start: Any, operator: Any, gated: Any
) -> None:
    start(load=True)
    operator.order("load/a", model="m")
    gated.entered.get(timeout=LONG_S)
    operator.answer("load/a", "executing")
    operator.order("load/a", model="m")
    operator.answer("load/a", "executing")
    operator.send("cmd/load/a", b"{")
    operator.answer("load/a", "executing")
    gated.gate.set()
    assert operator.answer("load/a")["status"] == "successful"
    assert gated.ids == ["a"]


def test_progress_is_told(start: Any, operator: Any, gated: Any) -> None:
    start(load=True)
    operator.order("load/a", model="m")
    answer = operator.until(
        lambda r: r.payload and b'"progress"' in r.payload and msgspec.json.decode(r.payload),
        "progress",
    )
    assert (answer["progress"], answer["said"], answer["model"]) == (0.5, "a", "m")


def test_commands_of_one_model_wait_for_each_other_and_others_do_not(
    start: Any, operator: Any, gated: Any
) -> None:
    start(load=True, unload=True)
    listens(operator)
    for path, model in (("load/a", "m"), ("unload/b", "m"), ("load/c", "m"), ("load/d", "n")):
        operator.order(path, model=model)
    assert {gated.entered.get(timeout=LONG_S) for _ in range(2)} == {"a", "d"}
    assert gated.entered.empty()
    gated.gate.set()
    for path in ("load/a", "unload/b", "load/c", "load/d"):
        assert operator.answer(path)["status"] == "successful"
    assert [id_ for id_ in gated.ids if id_ != "d"] == ["a", "b", "c"]


def test_more_than_the_queue_takes_is_refused(start: Any, operator: Any, gated: Any) -> None:
    start(load=True, queue=2)
    listens(operator)
    for id_ in "abcde":
        operator.order(f"load/{id_}", model="m")
    refused = [operator.answer(f"load/{id_}", "failed") for id_ in "de"]
    assert [answer["kind"] for answer in refused] == ["unavailable"] * 2
    gated.gate.set()
    assert operator.answer("load/c")["status"] == "successful"
    operator.order("load/e", model="m")
    assert operator.answer("load/e", "successful")


def test_command_that_is_cleared_before_its_turn_never_runs(
    start: Any, operator: Any, gated: Any
) -> None:
    start(load=True)
    operator.order("load/a", model="m")
    gated.entered.get(timeout=LONG_S)
    operator.order("load/b", model="m")
    operator.send("cmd/load/b", b"")
    assert operator.event(id="b")["kind"] == "withdrawn"
    gated.gate.set()
    operator.answer("load/a")
    assert gated.ids == ["a"]


def test_end_of_a_command_that_was_cleared_is_not_told_on_its_topic(
    broker: Any, start: Any, operator: Any, gated: Any
) -> None:
    start(load=True)
    operator.order("load/a", model="m")
    gated.entered.get(timeout=LONG_S)
    operator.answer("load/a", "executing")
    operator.send("cmd/load/a", b"")
    assert operator.event(id="a")["kind"] == "withdrawn"
    operator.order("load/b", model="n")
    gated.gate.set()
    operator.answer("load/b")
    late = type(operator)(broker.url)
    late.until(lambda r: r.topic.endswith("load/b"), "what is retained")
    assert not any(received.topic.endswith("load/a") for received in late.seen)
    late.close()


def test_answer_that_crossed_the_clearing_does_not_stay(
    start: Any, operator: Any, gated: Any
) -> None:
    """The device tells how far it is while the operator's clearing is on its way to it."""
    start(load=True)
    operator.order("load/a", model="m")
    operator.answer("load/a", "executing")
    operator.send("cmd/load/a", b"")
    assert operator.event(id="a")["kind"] == "withdrawn"
    operator.until(lambda r: r.topic.endswith("load/a") and not r.payload, "the clearing")
    operator.send("cmd/load/a", b'{"status":"executing","model":"m"}')
    operator.until(lambda r: r.topic.endswith("load/a") and not r.payload, "it to be cleared too")
    gated.gate.set()
    operator.order("load/a", model="m")  # and the operator may use the id as ever
    assert operator.answer("load/a")["kind"] == "withdrawn"


def test_device_without_rights_listens_to_nothing(
    start: Any, operator: Any, eventually: Any
) -> None:
    publisher = start()
    operator.order("load/a", model="digits")
    eventually(lambda: publisher.state == "connected", "a connection")
    operator.until(lambda r: r.topic.endswith("/info"), "the device")
    publisher.close(LONG_S)
    assert publisher._steering is None
    assert list(publisher._sender._handlers) == ["edge/v1/lab/one/model/+"]  # what it told itself
    assert [r.payload for r in operator.seen if "/cmd/" in r.topic] in (
        [],
        [b'{"status":"init","model":"digits"}'],
    )


def test_expired_command_is_not_run(
    start: Any, operator: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.gate.set()
    monkeypatch.setattr(clock, "is_synchronized", lambda: True)
    start(load=True)
    operator.order("load/a", model="m", expires=1000)
    assert operator.answer("load/a")["kind"] == "expired"
    operator.order("load/b", model="m", expires=(1 << 53))
    assert operator.answer("load/b")["status"] == "successful"
    assert gated.ids == ["b"]


def test_expiry_that_can_not_be_judged_is_not_risked_for_what_was_retained(
    start: Any, operator: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.gate.set()
    monkeypatch.setattr(clock, "is_synchronized", lambda: False)
    operator.order("load/old", model="m", expires=(1 << 53))
    start(load=True)
    answer = operator.answer("load/old")
    assert (answer["kind"], "not synchronized" in answer["reason"]) == ("expired", True)
    operator.order("load/new", model="m", expires=1000)
    assert operator.answer("load/new")["status"] == "successful"


def test_what_the_broker_counts_down_needs_no_clock(
    broker: Any, start: Any, operator: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.gate.set()
    monkeypatch.setattr(clock, "is_synchronized", lambda: False)
    _publish_for(
        600, broker.port, "edge/v1/lab/one/cmd/load/old", {"model": "m", "expires": 1 << 53}
    )
    start(load=True, version="5")
    assert operator.answer("load/old")["status"] == "successful"
    assert gated.ids == ["old"]


def _publish_for(seconds: int, port: int, topic: str, fields: dict[str, Any]) -> None:
    """Have a broker retain a command for so long, by MQTT 5."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    properties = Properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = seconds
    payload = msgspec.json.encode({"status": "init", **fields})
    client.publish(topic, payload, 1, True, properties).wait_for_publish(LONG_S)
    client.disconnect()
    client.loop_stop()


def test_what_waited_here_for_longer_than_it_holds_is_not_run() -> None:
    order = Order("init", until_s=time.monotonic() - 0.1)
    with pytest.raises(RefusedError, match="waited here") as caught:
        Judge.check_expiry(order, is_live=True)
    assert caught.value.kind == "expired"


def test_events_of_nonsense_are_bounded_and_counted(
    start: Any, operator: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.telemetry.commands.events._REFUSED_PER_S", 0.0)
    gated.gate.set()
    start(load=True)
    listens(operator)
    for number in range(60):
        operator.send(f"cmd/load/n{number}", b"nonsense", is_retained=False)
    operator.answer("load/n59", "failed")
    operator.order("load/good", model="m")
    event = operator.event(id="good")
    assert event["left_out_count"] == 41  # of 60 and what ``listens`` asked


def test_inference_goes_on_while_a_command_hangs(
    start: Any, operator: Any, gated: Any, runtime: Runtime
) -> None:
    runtime.load_all()
    start(load=True)
    operator.order("load/a", model="digits")
    gated.entered.get(timeout=LONG_S)
    outputs = runtime.infer("digits", {"x": np.ones((1, 3), np.float32)})
    assert outputs["y"].shape == (1, 4)


def test_defect_of_a_verb_is_a_failure_and_no_end(
    start: Any, operator: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Result:
        raise KeyError("oops")

    monkeypatch.setattr(gated, "run", fail)
    start(load=True)
    operator.order("load/a", model="m")
    assert operator.answer("load/a")["reason"] == "KeyError: 'oops'"
    monkeypatch.setattr(gated, "run", lambda *_: {"unspeakable": object()})
    operator.order("load/b", model="m")
    assert "TypeError" in operator.answer("load/b")["reason"]
    monkeypatch.setattr(gated, "run", lambda *_: {"long": "a" * 100_000})
    operator.order("load/c", model="m")
    assert "its result has" in operator.answer("load/c")["reason"]

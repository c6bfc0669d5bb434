from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from patience import LONG_S

from edge.telemetry.fleet.operator import COMMANDS, Operator
from edge.telemetry.topics import Topics
from edge.telemetry.watcher import Watcher

PRESS = Topics("plant", "press-7")
TOPIC = PRESS.of("cmd", "load", "one")

Eventually = Callable[[Callable[[], bool], str], None]


@pytest.fixture
def operator(broker: Any) -> Any:
    with Watcher(broker.url, "plant", "+", COMMANDS, timeout_s=LONG_S) as watcher:
        yield Operator(watcher, settle_s=0.1)


def polled(operator: Operator, condition: Callable[[], bool]) -> Callable[[], bool]:
    """The condition, looked at after each poll."""

    def look() -> bool:
        operator.poll(0.05)
        return condition()

    return look


def answer_of(operator: Operator) -> Any:
    return operator.answers("plant", "press-7").get("one")


def test_command_is_seen_until_its_topic_is_cleared(
    operator: Operator, send: Callable[..., None], eventually: Eventually
) -> None:
    operator.give(PRESS, "load", "one", {"model": "digits"})
    assert answer_of(operator) == {"model": "digits", "status": "init"}
    assert operator.flush(LONG_S)
    told = {"status": "successful", "result": {"version": "2"}}
    send(TOPIC, json.dumps(told).encode(), is_retained=True)
    eventually(polled(operator, lambda: answer_of(operator) == told), "the answer")
    operator.clear(PRESS, "load", "one")
    assert operator.flush(LONG_S)
    send(PRESS.of("cmd", "load", "two"), b'{"status": "init"}')
    answers = operator.answers("plant", "press-7")
    eventually(polled(operator, lambda: "two" in answers), "what came after")
    assert answer_of(operator) is None


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"[]", b'"text"', b"[" * 5000])
def test_answer_that_is_none_changes_nothing(
    operator: Operator, send: Callable[..., None], eventually: Eventually, payload: bytes
) -> None:
    operator.give(PRESS, "load", "one", {})
    assert operator.flush(LONG_S)
    send(TOPIC, payload)
    send(PRESS.of("reported"), payload)
    send(PRESS.of("cmd", "load", "two"), b"{}")
    answers = operator.answers("plant", "press-7")
    eventually(polled(operator, lambda: "two" in answers), "what came after")
    assert answer_of(operator) == {"status": "init"}
    assert operator.board.device("plant", "press-7").reported == {}


def test_what_is_given_while_the_broker_is_away_arrives_once_it_is_back(
    operator: Operator, broker: Any, eventually: Eventually
) -> None:
    eventually(polled(operator, lambda: operator.is_settled), "a settled connection")
    broker.stop()
    eventually(polled(operator, lambda: not operator.watcher.is_connected), "the loss")
    operator.give(PRESS, "load", "one", {"model": "digits"})
    operator.send_chunk(PRESS, "u1", 3, b"chunk")
    broker.start()
    assert operator.flush(LONG_S)
    with Watcher(broker.url, "plant", "+", COMMANDS, timeout_s=LONG_S) as other:
        witness = Operator(other, settle_s=0.1)
        eventually(polled(witness, lambda: answer_of(witness) is not None), "the command")
    assert answer_of(witness)["model"] == "digits"


def test_command_that_the_broker_forgot_and_no_device_took_up_is_not_seen_any_more(
    operator: Operator, broker: Any, eventually: Eventually
) -> None:
    operator.give(PRESS, "load", "one", {})
    assert operator.flush(LONG_S)
    broker.stop()
    eventually(polled(operator, lambda: not operator.watcher.is_connected), "the loss")
    broker.start()
    eventually(polled(operator, lambda: operator.is_settled), "a settled connection")
    assert answer_of(operator) is None

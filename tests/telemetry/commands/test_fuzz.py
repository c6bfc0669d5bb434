"""Whatever comes under ``cmd`` and ``desired``: an answer or an event, never an exception."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from patience import LONG_S, wait_until

from edge.settings import Commands, Settings
from edge.telemetry.commands import desired as documents
from edge.telemetry.commands import order as orders
from edge.telemetry.commands.dispatcher import Dispatcher
from edge.telemetry.commands.journal import Journal
from edge.telemetry.commands.order import RefusedError
from edge.telemetry.commands.verb import Context, Progress, Result, Surroundings, Verb
from edge.telemetry.link import Received
from edge.telemetry.topics import Topics

TOPICS = Topics("lab", "one")
ROOT = TOPICS.of("cmd")


class Broker:
    """A sender whose broker keeps and echoes at once."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.handler: Any = None
        self.backlog = SimpleNamespace(commit=lambda: True)

    def listen(self, _pattern: str, handler: Any) -> None:
        self.handler = handler

    def retain(self, topic: str, payload: bytes) -> None:
        self.retained[topic] = payload
        self.handler(Received(topic, payload, False))

    def release(self, topic: str) -> None:
        pass

    def send(self, _topic: str, metrics: dict[str, Any], *, is_event: bool = False) -> None:
        assert is_event
        msgspec.json.encode(metrics)
        self.events.append(metrics)


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    version: str = ""


class LoadVerb(Verb[Load]):
    arguments = Load

    def run(self, context: Context, arguments: Load, progress: Progress) -> Result:
        return {"model": arguments.model}


Json = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(),
    lambda children: (
        some.lists(children, max_size=3) | some.dictionaries(some.text(), children, max_size=3)
    ),
    max_leaves=8,
)
Fields = some.dictionaries(
    some.sampled_from(["status", "model", "version", "expires", "x_me", "progress", "result"])
    | some.text(max_size=5),
    some.sampled_from(["init", "executing", "failed", "m", 1, 1 << 70, None]) | Json,
    max_size=6,
)
Payload = some.binary(max_size=60) | Fields.map(msgspec.json.encode)
Path = some.lists(
    some.sampled_from(["load", "unload", "a", "b", "", "+", "ü", ".."]) | some.text(max_size=70),
    max_size=4,
).map("/".join)
Message = some.tuples(Path, Payload | some.just(b""), some.booleans())


@settings(max_examples=100)
@given(some.lists(Message, max_size=12))
def test_any_messages_leave_a_dispatcher_that_works(
    caplog: pytest.LogCaptureFixture, messages: list[tuple[str, bytes, bool]]
) -> None:
    caplog.clear()
    broker = Broker()
    rights = Settings(commands=Commands(load=True, max_payload_bytes=300))
    around = Surroundings(cast(Any, None), rights, TOPICS, cast(Any, broker))
    verbs: dict[str, Verb[Any]] = {"load": LoadVerb(), "unload": LoadVerb()}
    dispatcher = Dispatcher(around, verbs, Journal(None, 4, 1.0))
    dispatcher.listen()
    dispatcher.start()
    for path, payload, is_retained in messages:
        broker.handler(Received(f"{ROOT}/{path}", payload, is_retained))
    topic = f"{ROOT}/load/the-last-one"
    broker.handler(Received(topic, b'{"status": "init", "model": "m"}', False))
    wait_until(lambda: b'"successful"' in broker.retained.get(topic, b""), "the last one")
    dispatcher.close(LONG_S)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    for payload in filter(None, broker.retained.values()):  # none is what was cleared
        answer = msgspec.json.decode(payload)
        assert answer["status"] in ("executing", "successful", "failed")
        assert answer["status"] != "failed" or (answer["reason"] and answer["kind"])


@given(Payload)
def test_order_is_read_or_refused(payload: bytes) -> None:
    try:
        order = orders.read(payload)
    except RefusedError:
        return
    assert not set(order.fields) & set(orders.TOLD)
    with contextlib.suppress(RefusedError):
        assert orders.arguments_of(order.fields, Load, "load").model == order.fields["model"]


@given(Payload)
def test_desired_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(RefusedError):
        assert documents.read(payload, 1000).rev >= 1


@given(some.integers(), some.integers(1, 1 << 53), some.booleans(), some.booleans())
def test_expiry_lets_through_only_what_is_in_time(
    now_ms: int, expires_ms: int, is_synchronized: bool, is_live: bool
) -> None:
    try:
        orders.check_expiry(expires_ms, now_ms, is_synchronized=is_synchronized, is_live=is_live)
    except RefusedError:
        assert now_ms > expires_ms if is_synchronized else not is_live
    else:
        assert now_ms <= expires_ms if is_synchronized else is_live

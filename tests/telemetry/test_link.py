"""One connection, as its users shape it."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pytest
from patience import LONG_S

from edge.telemetry.address import parse_address
from edge.telemetry.link import Link, Waker, Will


@pytest.fixture
def connect(broker: Any) -> Iterator[Any]:
    links: list[Link] = []

    def connect(**options: Any) -> Link:
        link = Link(parse_address(broker.url), timeout_s=LONG_S, **options)
        links.append(link)
        link.open()
        while link.state == "connecting":
            link.step(LONG_S)
        assert link.state == "connected", link.reason
        return link

    yield connect
    for link in links:
        link.disconnect()


def _next(link: Link) -> Any:
    while not link.received:
        assert link.is_open, link.reason
        link.step(LONG_S)
    return link.received.popleft()


def test_message_of_qos_0_arrives_and_is_acknowledged_once_it_has_left(connect: Any) -> None:
    reader, sender = connect(), connect()
    reader.subscribe("t/#")
    _settle(reader)
    number = sender.send("t/zero", b"0", is_retained=False, qos=0)
    while not (acknowledged := sender.acknowledged()):
        sender.step(LONG_S)
    assert acknowledged == [number]
    assert _next(reader).payload == b"0"


@pytest.mark.parametrize("is_retained", [True, False])
def test_will_is_kept_for_those_who_come_later_only_if_it_is_retained(
    connect: Any, is_retained: bool
) -> None:
    reader = connect()
    reader.subscribe("t/#")
    _settle(reader)
    connect(will=Will("t/will", b"gone", is_retained=is_retained)).abort()
    assert _next(reader).payload == b"gone"
    late = connect()
    late.subscribe("t/#")
    late.send("t/after", b"all is said", is_retained=False)
    kept = set()
    while (message := _next(late)).topic != "t/after":
        kept.add((message.payload, message.is_retained))
    assert kept == ({(b"gone", True)} if is_retained else set())


def _settle(reader: Link) -> None:
    """Until the subscription holds: what it sends itself comes back."""
    reader.send("t/echo", b"", is_retained=False)
    assert _next(reader).topic == "t/echo"


def test_a_waker_wakes_once_for_all_that_came_before_and_again_for_what_comes_after() -> None:
    waker = Waker()
    for _ in range(3):
        waker.wake()
    assert _is_awake(waker)
    waker.clear()
    assert not _is_awake(waker)
    waker.wake()
    assert _is_awake(waker)
    waker.wait(LONG_S)
    assert not _is_awake(waker)
    waker.close()
    waker.wake()


def _is_awake(waker: Waker) -> bool:
    return bool(select.select([waker], [], [], 0.0)[0])

"""Carries an edge node's sessions to the brokers, on a thread and connections of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import msgspec

from edge.core.errors import InputError
from edge.telemetry import clock
from edge.telemetry.address import BrokerAddress
from edge.telemetry.backoff import Backoff
from edge.telemetry.figures import Figure
from edge.telemetry.formats._sparkplug.births import Births
from edge.telemetry.formats._sparkplug.history import History
from edge.telemetry.formats._sparkplug.payload import decode
from edge.telemetry.formats._sparkplug.primary_host import PrimaryHost
from edge.telemetry.formats._sparkplug.session import REBIRTH, Message, Names, Session
from edge.telemetry.link import Link, Received, Waker, Will
from edge.telemetry.reports import Metrics

log = logging.getLogger(__name__)

_TICK_S = 1.0
_HISTORY_TICK_S = 0.1  # while what waited goes by its rate


class Pace(msgspec.Struct, frozen=True):
    """``host_wait_s``: how long it waits for the host at one of several brokers."""

    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    keepalive_s: int = 30
    host_wait_s: float = 10.0


class EdgeNode:
    """One broker at a time, the next one after each loss; births and data at QoS 0.

    A birth tells how things are then; what waited for it follows as historical. MQTT is always
    3.1.1, where a goodbye is an NDEATH before DISCONNECT.
    """

    def __init__(
        self,
        brokers: Sequence[BrokerAddress],
        names: Names,
        births: Births,
        history: History,
        *,
        host: PrimaryHost | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._brokers = brokers
        self._names = names
        self._births = births
        self._history = history
        self._host = host
        self._pace = pace or Pace()
        self._is_host_online = host is None
        self._unused: int | None = None
        self._state = ""
        self._closing_s: float | None = None
        self._waker = Waker()
        self._thread = threading.Thread(target=self._run, name="edge-sparkplug", daemon=True)

    def start(self) -> None:
        self._history.start()
        self._thread.start()

    def tell(self, figures: Sequence[Figure]) -> None:
        """How all things are now."""
        self._history.look(figures)
        self._waker.wake()

    def note(self, event: str, metrics: Metrics) -> None:
        """Something happened."""
        self._history.note(event, metrics)
        self._waker.wake()

    def close(self, timeout_s: float) -> None:
        """Say goodbye and disconnect."""
        self._closing_s = time.monotonic() + timeout_s
        self._waker.wake()
        self._thread.join(timeout_s + _TICK_S)
        if not self._thread.is_alive():
            self._waker.close()
        self._history.close()

    def _run(self) -> None:
        backoff = Backoff(self._pace.first_wait_s, self._pace.longest_wait_s)
        tries = 0
        while self._closing_s is None:
            if not self._history.state.values:
                self._waker.wait(_TICK_S)
                continue
            broker = self._brokers[tries % len(self._brokers)]
            began_s = time.monotonic()
            reason = self._serve(broker)
            if self._closing_s is not None:
                break
            self._note(f"no Sparkplug session with {broker}: {reason}")
            tries += 1
            backoff.lasted(time.monotonic() - began_s)
            if tries % len(self._brokers) == 0 or len(self._brokers) == 1:
                self._wait(backoff.next_s())

    def _serve(self, broker: BrokerAddress) -> str:
        """One session, from CONNECT to its end; says why it ended."""
        number = self._births.next() if self._unused is None else self._unused
        session = Session(self._names, number)
        will = session.death()
        link = Link(
            broker,
            client_id=f"edge-sparkplug/{self._names.group}/{self._names.node}",
            will=Will(will.topic, will.payload, is_retained=False),
            keepalive_s=self._pace.keepalive_s,
            waker=self._waker,
        )
        try:
            link.open()
            # Without a CONNECT the number is as good as new, and costs no write for each try.
            self._unused = None if link.is_open else number
            self._talk(link, session, str(broker))
        except Exception as error:
            log.exception("Sparkplug failed, and will connect again")
            link.abort(f"{type(error).__name__}: {error}")
        self._history.end()
        return link.reason

    def _talk(self, link: Link, session: Session, broker: str) -> None:
        deadline_s = time.monotonic() + self._pace.host_wait_s
        is_subscribed = False
        while link.is_open:
            if self._closing_s is not None:
                return self._leave(link, session, "closed")
            if link.state == "connected":
                if not is_subscribed:
                    is_subscribed = True
                    self._subscribe(link)
                if reason := self._read(link, session, broker):
                    return self._leave(link, session, reason)
                if self._is_host_online:
                    self._speak(link, session)
                elif len(self._brokers) > 1 and time.monotonic() >= deadline_s:
                    return self._leave(link, session, "the primary host is not there")
            link.step(_HISTORY_TICK_S if self._history.has_more else _TICK_S)

    def _subscribe(self, link: Link) -> None:
        self._is_host_online = self._host is None
        link.subscribe(self._names.of("NCMD"))
        link.subscribe(self._names.of("DCMD", "+"))
        if self._host is not None:
            link.subscribe(self._host.topic)

    def _read(self, link: Link, session: Session, broker: str) -> str:
        """Handle what came; a reason to leave this broker, if there is one."""
        while link.received:
            received = link.received.popleft()
            if self._host is not None and received.topic == self._host.topic:
                said = self._host.take(received.payload, broker)
                self._is_host_online = self._is_host_online if said is None else said
                # One that was not born has nobody to die for, and with one broker nowhere to go.
                if said is False and (session.is_born or len(self._brokers) > 1):
                    return "the primary host is offline"
            elif session.is_born and self._asks_for_rebirth(received):
                self._send(link, session.birth(self._history.state, clock.now_ms()))
        return ""

    def _asks_for_rebirth(self, received: Received) -> bool:
        """Of all commands the only one: no metric of ours can be written."""
        if received.topic != self._names.of("NCMD"):
            return False
        try:
            payload = decode(received.payload)
        except InputError as error:
            log.debug("a command to %s can not be read: %s", received.topic, error)
            return False
        return any(one.name == REBIRTH and one.value is True for one in payload.metrics)

    def _speak(self, link: Link, session: Session) -> None:
        if not session.is_born:
            self._history.begin()
            self._send(link, session.birth(self._history.state, clock.now_ms()))
            self._note(f"a Sparkplug session with {link.address}", is_good=True)
        self._send(link, session.follow(self._history.state, clock.now_ms()))
        while link.is_open and (told := self._history.take()) is not None:
            now_ms = clock.now_ms()
            self._send(link, session.follow(self._history.state, now_ms))  # it may be of a new one
            self._send(link, session.data(told, now_ms))
        self._history.prove(link, self._names.of("NCMD"))

    def _leave(self, link: Link, session: Session, reason: str) -> None:
        """A death of our own before DISCONNECT, as the broker then drops the will."""
        if link.state == "connected":
            if session.is_born:
                self._send(link, [session.death()])
            link.reason = reason
            link.disconnect()
        else:
            link.abort(reason)

    def _send(self, link: Link, messages: Sequence[Message]) -> None:
        for message in messages:
            if link.is_open:
                link.send(message.topic, message.payload, is_retained=False, qos=0)

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while self._closing_s is None and (left_s := until_s - time.monotonic()) > 0:
            self._waker.wait(left_s)

    def _note(self, state: str, *, is_good: bool = False) -> None:
        """Log a change, not each try."""
        if state != self._state:
            self._state = state
            log.log(logging.INFO if is_good else logging.WARNING, "%s", state)

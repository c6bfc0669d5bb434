"""Carries messages to a broker on a thread of its own, and outlives the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.telemetry.address import BrokerAddress
from edge.telemetry.backlog import Backlog
from edge.telemetry.backoff import Backoff
from edge.telemetry.clock_floor import ClockFloor
from edge.telemetry.conversation import Conversation
from edge.telemetry.envelope import Envelope, Sealer
from edge.telemetry.link import CONNECT_TIMEOUT_S, Link, Received, Version, Waker, Will
from edge.telemetry.outbox import Bounds, Status
from edge.telemetry.presence import Presence
from edge.telemetry.retained import Retained, Value
from edge.telemetry.rotation import Rotation
from edge.telemetry.scout import Scout
from edge.telemetry.standing import Standing
from edge.telemetry.suspect import Suspect
from edge.telemetry.topics import Topics, matches

log = logging.getLogger(__name__)

Handler = Callable[[Received], None]

_TICK_S = 1.0  # paho looks after keepalive and lost connections this often
_DRAIN_TICK_S = 0.1  # while history goes by its rate
_CLOCK_WAIT_S = 5.0  # until a clock that was wrong is looked at again


class Delivery(msgspec.Struct, frozen=True):
    """How hard to try.

    ``window`` messages at most wait for the broker's answer at one time. Those that wait for a
    connection are in ``folder``, if there is one, within ``bounds``. While another broker than the
    first serves, it is looked every ``look_back_s`` whether a better one is back. ``clock`` is
    the file that keeps the time for TLS.
    """

    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: float = CONNECT_TIMEOUT_S
    keepalive_s: int = 30
    window: int = 8
    version: Version = "3.1.1"
    folder: Path | None = None
    bounds: Bounds = Bounds()
    look_back_s: float = 300.0
    clock: Path | None = None


class SenderStatus(msgspec.Struct, frozen=True):
    """``state``: ``connecting``, ``connected``, ``unreachable``, ``refused`` or ``closed``.

    ``broker`` is that of the connection, or the one that is tried; ``connection_count`` were
    accepted so far.
    """

    state: str
    reason: str
    broker: str
    connection_count: int
    in_flight_count: int
    outbox: Status


class Sender:
    """Delivers at least once, in order but for what is retained.

    Of a retained topic only the newest value counts: it is sent on change and again after each
    reconnect, and is made anew by the next run. All else waits in a backlog, also over restarts,
    until a broker says that it has it. Nothing here blocks the caller.

    Of several brokers the first that accepts us gets all. From another than the first it goes
    back, between two messages, once the first accepts us again.
    """

    def __init__(
        self, brokers: BrokerAddress | Sequence[BrokerAddress], topics: Topics, delivery: Delivery
    ) -> None:
        self._sealer = Sealer()
        self.backlog = Backlog(self._seal_gap, delivery.folder, delivery.bounds)
        brokers = (brokers,) if isinstance(brokers, BrokerAddress) else tuple(brokers)
        backoff = Backoff(delivery.first_wait_s, delivery.longest_wait_s)
        self._rotation = Rotation(brokers, backoff)
        self._standing = Standing(self._rotation)
        self._presence = Presence(topics.status, self._sealer)
        self._topics = topics
        self._delivery = delivery
        self._handlers: dict[str, Handler] = {}
        self._hearers: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._retained = Retained(self._sealer)
        self._suspect = Suspect()
        self._conversation: Conversation | None = None
        self._connection_count = 0
        self._heard_by: BrokerAddress | None = None
        self._floor = ClockFloor(delivery.clock)
        self._moving_to: int | None = None
        self._closing_s: float | None = None
        self._closing = threading.Event()
        self._hold_history_s = 0.0
        self._sealing = threading.Lock()
        self._waker = Waker()
        self._scout = Scout(self._new_link, delivery.look_back_s, self._waker.wake)
        self._thread = threading.Thread(target=self._run, name="edge-mqtt", daemon=True)

    def start(self) -> None:
        self.backlog.start()
        self._thread.start()

    @property
    def state(self) -> str:
        """As in `SenderStatus`."""
        return self._standing.state

    @property
    def reason(self) -> str:
        return self._standing.reason

    def status(self) -> SenderStatus:
        conversation = self._conversation
        return SenderStatus(
            state=self.state,
            reason=self.reason,
            broker=str(self._rotation.current),
            connection_count=self._connection_count,
            in_flight_count=len(conversation.in_flight) if conversation else 0,
            outbox=self.backlog.status(),
        )

    def send(self, topic: str, metrics: dict[str, Any], *, is_event: bool = False) -> None:
        """Stamp and queue a message."""
        with self._sealing:  # so that those of a run wait in the order of their numbers
            self.backlog.put(topic, self._sealer.seal(metrics), is_event=is_event)
        self._waker.wake()
        if topic in self._hearers:
            self._hearers[topic](metrics)

    def overhear(self, topic: str, hear: Callable[[dict[str, Any]], None]) -> None:
        """Give ``hear`` what is sent there, on the thread that sends it; it must not wait.

        Called before ``start``.
        """
        self._hearers[topic] = hear

    def listen(self, pattern: str, handler: Handler) -> None:
        """Give ``handler`` what comes under ``pattern``, in each connection to come.

        Called before ``start``. The handler runs on the thread that talks to the broker.
        """
        self._handlers[pattern] = handler

    def retain(self, topic: str, value: Value) -> None:
        """Set what the broker is to keep under ``topic``; the same value again sends nothing.

        Bytes go as they are, without an envelope; empty ones make the broker forget the topic.
        """
        if self._retained.set(topic, value):
            self._waker.wake()

    def release(self, topic: str) -> None:
        """Send what was retained there no more; the broker keeps what it has."""
        self._retained.release(topic)

    def repeat(self, topic: str) -> None:
        """Send once more what is retained under ``topic``, if anything is."""
        self._retained.repeat(topic)
        self._waker.wake()

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, say offline, and disconnect, all within ``timeout_s``.

        Of what is on disk, that which takes more than half of the time is left to the next run.
        """
        self._hold_history_s = time.monotonic() + timeout_s / 2
        self._closing_s = time.monotonic() + timeout_s
        self._closing.set()
        self._waker.wake()
        self._thread.join(timeout_s + _TICK_S)
        if not self._thread.is_alive():  # else it hangs in a name look-up, and dies with us
            self._waker.close()
        self.backlog.close()

    def _run(self) -> None:
        while self._closing_s is None:
            address = self._rotation.current
            objection = self._floor.objection() if address.tls else ""
            link = self._new_link(address, self._presence.will())
            if objection:
                link.abort(objection)
            else:
                self._serve(link)
            if self._closing_s is None:
                self._look_further(link, is_soon=bool(objection))
        self._standing.state = "closed"

    def _look_further(self, link: Link, *, is_soon: bool) -> None:
        """What to do after the end of a connection: another broker, or a wait."""
        if self._moving_to is not None:
            self._rotation.move_to(self._moving_to)
            self._moving_to = None
            self._standing.state = "connecting"
            return
        held_s = 0.0 if link.connected_at_s is None else time.monotonic() - link.connected_at_s
        wait_s = self._rotation.ended(link.reason, held_s)
        if wait_s:
            self._standing.failed(is_refused=link.state == "refused")
            self._closing.wait(min(wait_s, _CLOCK_WAIT_S) if is_soon else wait_s)
        elif self.state == "connected":
            self._standing.state = "connecting"

    def _new_link(self, address: BrokerAddress, will: Will | None = None) -> Link:
        return Link(
            address,
            # The same at each start, so that the broker ends a dead connection of ours at once,
            # and its will does not come long after we are back.
            client_id=self._topics.client_id,
            will=will,
            keepalive_s=self._delivery.keepalive_s,
            timeout_s=self._delivery.timeout_s,
            waker=self._waker if will else None,
            version=self._delivery.version,
        )

    def _serve(self, link: Link) -> None:
        self._conversation = Conversation(
            link, self._topics, self.backlog, self._retained, self._suspect
        )
        try:
            link.open()
            self._talk(link, self._conversation)
        except Exception as error:  # a defect costs a connection and a message, not the telemetry
            log.exception("telemetry failed, and will connect again")
            link.abort(f"{type(error).__name__}: {error}")
        self._conversation.end()
        self.backlog.find_disk()

    def _talk(self, link: Link, conversation: Conversation) -> None:
        while link.is_open:
            if link.state == "connected":
                if self.state != "connected":
                    self._begin(link, conversation)
                if self._moving_to is None:
                    conversation.hand_over(self._delivery.window)
                    self._look_around(conversation)
                elif conversation.leave("moved to another broker"):
                    break
            if self._closing_s is not None and self._close_when_done(link, conversation):
                break
            link.step(self._tick_s())
            conversation.settle()
            while link.received:
                self._dispatch(link.received.popleft())

    def _begin(self, link: Link, conversation: Conversation) -> None:
        if self._heard_by != link.address:
            self._heard_by = link.address
            self._retained.forgive()
            self._suspect.forget()
        self._connection_count += 1
        self._standing.connected()
        self._scout.begin()
        conversation.begin(self._presence.online())
        if self._handlers:
            link.subscribe(*self._handlers)

    def _look_around(self, conversation: Conversation) -> None:
        """What can wait for a connection that is well."""
        if self._rotation.current.tls:
            self._floor.keep()
        if not conversation.in_flight:
            self.backlog.find_disk()
        self._moving_to = self._scout.better(self._rotation.brokers[: self._rotation.place])

    def _dispatch(self, received: Received) -> None:
        """A handler that fails costs its message and no connection."""
        for pattern, handler in self._handlers.items():
            if matches(pattern, received.topic):
                try:
                    handler(received)
                except Exception:
                    log.exception("a message to %s could not be handled", received.topic)

    def _close_when_done(self, link: Link, conversation: Conversation) -> bool:
        """Whether it is time to go: all is delivered, or the time is up."""
        if self._closing_s is None or time.monotonic() >= self._closing_s:
            link.abort()
            return True
        if self.backlog.status().is_durable and time.monotonic() >= self._hold_history_s:
            self.backlog.hold_history()
        if self._retained.has_unsent or self.backlog.has_history:
            return False
        return conversation.leave("closed")

    def _seal_gap(self, metrics: dict[str, Any]) -> tuple[str, Envelope]:
        return self._topics.gap, self._sealer.seal(metrics)

    def _tick_s(self) -> float:
        tick_s = _DRAIN_TICK_S if self.backlog.has_history else _TICK_S
        if self._closing_s is None:
            return tick_s
        return min(tick_s, max(0.0, self._closing_s - time.monotonic()))

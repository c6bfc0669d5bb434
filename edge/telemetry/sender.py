"""Carries messages to the broker on a thread of its own, and outlives the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge.telemetry.address import BrokerAddress
from edge.telemetry.backlog import Backlog, Message
from edge.telemetry.backoff import Backoff
from edge.telemetry.envelope import Envelope, Sealer, encode
from edge.telemetry.link import CONNECT_TIMEOUT_S, Link, Received, Version, Waker, Will
from edge.telemetry.outbox import Bounds
from edge.telemetry.topics import Topics, matches

log = logging.getLogger(__name__)

Handler = Callable[[Received], None]

_TICK_S = 1.0  # paho looks after keepalive and lost connections this often
_DRAIN_TICK_S = 0.1  # while history goes by its rate


class Delivery(msgspec.Struct, frozen=True):
    """How hard to try.

    ``window`` messages at most wait for the broker's answer at one time. Those that wait for a
    connection are in ``folder``, if there is one, within ``bounds``.
    """

    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: float = CONNECT_TIMEOUT_S
    keepalive_s: int = 30
    window: int = 8
    version: Version = "3.1.1"
    folder: Path | None = None
    bounds: Bounds = Bounds()


class Sender:
    """Delivers at least once, in order but for what is retained.

    Of a retained topic only the newest value counts: it is sent on change and again after each
    reconnect, and is made anew by the next run. All else waits in a backlog, also over restarts,
    until the broker says that it has it. Nothing here blocks the caller.
    """

    def __init__(self, address: BrokerAddress, topics: Topics, delivery: Delivery) -> None:
        self.state = "connecting"
        self.reason = ""
        self._sealer = Sealer()
        self.backlog = Backlog(self._seal_gap, delivery.folder, delivery.bounds)
        self._address = address
        self._topics = topics
        self._delivery = delivery
        self._handlers: dict[str, Handler] = {}
        self._retained: dict[str, dict[str, Any] | bytes] = {}
        self._unsent: dict[str, None] = {}  # retained topics, in the order of their change
        self._in_flight: dict[int, Message] = {}
        self._will: Envelope | None = None
        self._will_seq = 0
        self._has_been_rejected = False
        self._closing_s: float | None = None
        self._hold_history_s = 0.0
        self._has_said_goodbye = False
        self._lock = threading.Lock()
        self._sealing = threading.Lock()
        self._waker = Waker()
        self._thread = threading.Thread(target=self._run, name="edge-mqtt", daemon=True)

    def start(self) -> None:
        self.backlog.start()
        self._thread.start()

    def send(self, topic: str, metrics: dict[str, Any], *, is_event: bool = False) -> None:
        """Stamp and queue a message."""
        with self._sealing:  # so that those of a run wait in the order of their numbers
            self.backlog.put(topic, self._sealer.seal(metrics), is_event=is_event)
        self._waker.wake()

    def listen(self, pattern: str, handler: Handler) -> None:
        """Give ``handler`` what comes under ``pattern``, in each connection to come.

        Called before ``start``. The handler runs on the thread that talks to the broker.
        """
        self._handlers[pattern] = handler

    def retain(self, topic: str, value: dict[str, Any] | bytes) -> None:
        """Set what the broker is to keep under ``topic``; the same value again sends nothing.

        Bytes go as they are, without an envelope; empty ones make the broker forget the topic.
        """
        with self._lock:
            if self._retained.get(topic) == value:
                return
            self._retained[topic] = value
            self._unsent[topic] = None
        self._waker.wake()

    def release(self, topic: str) -> None:
        """Send what was retained there no more; the broker keeps what it has."""
        with self._lock:
            self._retained.pop(topic, None)
            self._unsent.pop(topic, None)

    def repeat(self, topic: str) -> None:
        """Send once more what is retained under ``topic``, if anything is."""
        with self._lock:
            if topic in self._retained:
                self._unsent[topic] = None
        self._waker.wake()

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, say offline, and disconnect, all within ``timeout_s``.

        Of what is on disk, that which takes more than half of the time is left to the next run.
        """
        self._hold_history_s = time.monotonic() + timeout_s / 2
        self._closing_s = time.monotonic() + timeout_s
        self._waker.wake()
        self._thread.join(timeout_s + _TICK_S)
        if not self._thread.is_alive():  # else it hangs in a name look-up, and dies with us
            self._waker.close()
        self.backlog.close()

    def _run(self) -> None:
        delivery = self._delivery
        backoff = Backoff(delivery.first_wait_s, delivery.longest_wait_s)
        while self._closing_s is None:
            link = self._new_link()
            began_s = time.monotonic()
            self._serve(link)
            if self._closing_s is None:
                self._note("refused" if link.state == "refused" else "unreachable", link.reason)
                backoff.lasted(time.monotonic() - began_s)
                self._wait(backoff.next_s())
        self.state = "closed"

    def _new_link(self) -> Link:
        return Link(
            self._address,
            # The same at each start, so that the broker ends a dead connection of ours at once,
            # and its will does not come long after we are back.
            client_id=self._topics.client_id,
            will=self._new_will(),
            keepalive_s=self._delivery.keepalive_s,
            timeout_s=self._delivery.timeout_s,
            waker=self._waker,
            version=self._delivery.version,
        )

    def _serve(self, link: Link) -> None:
        try:
            link.open()
            self._talk(link)
        except Exception as error:  # a defect costs a connection and a message, not the telemetry
            log.exception("telemetry failed, and will connect again")
            link.abort(f"{type(error).__name__}: {error}")
        self.backlog.end()
        self._in_flight.clear()

    def _talk(self, link: Link) -> None:
        while link.is_open:
            if link.state == "connected":
                if self.state != "connected":
                    self._begin()
                    if self._handlers:
                        link.subscribe(*self._handlers)
                self._hand_over(link)
            if self._closing_s is not None and self._close_when_done(link, self._closing_s):
                break
            link.step(self._tick_s())
            self._settle(link)
            while link.received:
                self._dispatch(link.received.popleft())

    def _settle(self, link: Link) -> None:
        for number in link.acknowledged():
            message = self._in_flight.pop(number, None)
            if message is not None and message.number:
                self.backlog.acknowledge(message.number)
        for number, reason in link.rejected():  # it stays, and goes again with the next connection
            message = self._in_flight.pop(number, None)
            if message is not None and not self._has_been_rejected:
                self._has_been_rejected = True
                log.warning("the broker refused a message to %s: %s", message.topic, reason)

    def _dispatch(self, received: Received) -> None:
        """A handler that fails costs its message and no connection."""
        for pattern, handler in self._handlers.items():
            if matches(pattern, received.topic):
                try:
                    handler(received)
                except Exception:
                    log.exception("a message to %s could not be handled", received.topic)

    def _begin(self) -> None:
        self.backlog.begin()
        if self._will is not None:
            self._will_seq, self._will = self._will.seq, None
        self._note("connected", "")
        with self._lock:
            self._unsent = {self._topics.status: None, **dict.fromkeys(self._retained)}

    def _hand_over(self, link: Link) -> None:
        while len(self._in_flight) < self._delivery.window and link.is_open:
            if retained := self._next_retained():
                self._send(link, retained, is_retained=True)
            elif message := self.backlog.take():
                self._send(link, message)
            else:
                return

    def _send(self, link: Link, message: Message, *, is_retained: bool = False) -> None:
        try:
            number = link.send(message.topic, message.payload, is_retained=is_retained)
        except Exception:  # no connection would take it, and it would hold up all others
            if message.number:
                self.backlog.acknowledge(message.number)
            raise
        self._in_flight[number] = message

    def _next_retained(self) -> Message | None:
        with self._lock:
            if not self._unsent:
                return None
            topic = next(iter(self._unsent))
            del self._unsent[topic]
            value = self._retained.get(topic, {})
        if isinstance(value, bytes):
            return Message(topic, value)
        if topic == self._topics.status:
            value = {"state": "online", "will_seq": self._will_seq}
        return self._retained_message(topic, value)

    def _close_when_done(self, link: Link, deadline_s: float) -> bool:
        """Whether it is time to go: all is delivered, or the time is up."""
        if time.monotonic() >= deadline_s:
            link.abort()
            return True
        if self.backlog.status().is_durable and time.monotonic() >= self._hold_history_s:
            self.backlog.hold_history()
        if link.state != "connected" or self._in_flight or self._unsent or self.backlog.has_history:
            return False
        if self._has_said_goodbye:
            link.disconnect()
            return True
        self._has_said_goodbye = True
        offline = {"state": "offline", "reason": "closed"}
        goodbye = self._retained_message(self._topics.status, offline)
        self._send(link, goodbye, is_retained=True)
        return False

    def _retained_message(self, topic: str, metrics: dict[str, Any]) -> Message:
        return Message(topic, encode(self._sealer.seal(metrics)))

    def _new_will(self) -> Will:
        """A will for the next connection, with a number of its own.

        The number is used up though the will may never be sent: the online status names it, so
        that a reader who counts misses nothing. A connection that failed left its will unused.
        """
        if self._will is None:
            self._will = self._sealer.seal({"state": "offline", "reason": "connection lost"})
        return Will(self._topics.status, encode(self._will))

    def _seal_gap(self, metrics: dict[str, Any]) -> tuple[str, Envelope]:
        return self._topics.of("event", "gap"), self._sealer.seal(metrics)

    def _tick_s(self) -> float:
        tick_s = _DRAIN_TICK_S if self.backlog.has_history else _TICK_S
        if self._closing_s is None:
            return tick_s
        return min(tick_s, max(0.0, self._closing_s - time.monotonic()))

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while self._closing_s is None and (left_s := until_s - time.monotonic()) > 0:
            self._waker.wait(left_s)

    def _note(self, state: str, reason: str) -> None:
        """Log a change of state, not each try."""
        before, self.state, self.reason = self.state, state, reason
        if before == state:
            return
        if state != "connected":
            log.warning("no telemetry: broker %s is %s: %s", self._address, state, reason)
        elif before == "connecting":
            log.info("telemetry goes to %s", self._address)
        else:
            log.warning("telemetry goes to %s again", self._address)

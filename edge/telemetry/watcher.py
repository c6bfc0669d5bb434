"""Follows the telemetry of devices from anywhere that reaches the broker."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from edge.core.errors import InputError, UnavailableError
from edge.telemetry import topics
from edge.telemetry.address import BrokerAddress, Brokers, addresses
from edge.telemetry.backoff import Backoff
from edge.telemetry.envelope import Envelope, decode
from edge.telemetry.link import CONNECT_TIMEOUT_S, Link, Received
from edge.telemetry.rotation import Rotation

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 5.0  # a person is looking
_MOST_OTHERS = 100_000  # for who does not look at them


class Arrival(msgspec.Struct, frozen=True):
    """A message, read. ``path`` is its topic after the device; ``at_s`` the monotonic clock."""

    topic: str
    fleet: str
    device: str
    path: str
    envelope: Envelope
    metrics: dict[str, Any]
    is_retained: bool
    at_s: float


class Watcher:
    """Subscribes to the devices that are named, or to all; one thread uses it.

    Of several brokers it looks at one, the first that answers.

    Args:
        more: Patterns of further paths to subscribe to; what is no telemetry ends up in ``others``.
    Raises:
        SettingsError: A URL or a name can't be used.
    """

    def __init__(
        self,
        brokers: Brokers,
        fleet: str = topics.ANY,
        device: str = topics.ANY,
        *more: str,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._rotation = Rotation(addresses(brokers), Backoff(0.5, _LONGEST_WAIT_S))
        self.error = ""
        self.others: deque[Received] = deque(maxlen=_MOST_OTHERS)
        self._patterns = topics.patterns(fleet, device, *more)
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._try_at_s = 0.0
        self._subscribed = False
        self._is_closed = False
        self._ready: deque[Arrival] = deque()

    def open(self) -> None:
        """Connect and subscribe.

        Raises:
            UnavailableError: The broker is not there, refuses us, or does not answer.
        """
        for _ in self._rotation.brokers:
            link = self._connect()
            deadline_s = time.monotonic() + self._timeout_s
            while link.state == "connecting" and time.monotonic() < deadline_s:
                link.step(deadline_s - time.monotonic())
            if link.state == "connected":
                self._subscribe(link)
                return
            link.abort("no answer")
            self._rotation.ended(link.reason, 0.0)
        self.close()
        at = f" at {self.address}" if len(self._rotation.brokers) == 1 else ""
        if link.state == "refused":
            raise UnavailableError(f"the MQTT broker{at} refuses us: {self._rotation.why()}")
        raise UnavailableError(
            f"no MQTT broker{at}: {self._rotation.why()}",
            hint="start one, or name another with --mqtt or EDGE_MQTT_URL",
        )

    @property
    def address(self) -> BrokerAddress:
        """The broker that is looked at, or tried next."""
        return self._rotation.current

    @property
    def is_connected(self) -> bool:
        return self._link is not None and self._link.state == "connected"

    @property
    def link(self) -> Link | None:
        """The connection, while there is one that is subscribed; another one after each loss."""
        return self._link if self.is_connected and self._subscribed else None

    def poll(self, timeout_s: float) -> list[Arrival]:
        """What arrived, waiting up to ``timeout_s`` for the first; connects again by itself.

        While there is no connection, ``error`` says why. What can't be read is left out.
        """
        if not self._ready and not self._is_closed:
            self._advance(timeout_s)
        arrivals = list(self._ready)
        self._ready.clear()
        return arrivals

    def messages(self, seconds: float | None = None) -> Iterator[Arrival]:
        """Messages as they arrive, for ``seconds`` or until the watcher is closed."""
        end_s = float("inf") if seconds is None else time.monotonic() + seconds
        while not self._is_closed and (left_s := end_s - time.monotonic()) > 0:
            yield from self.poll(min(1.0, left_s))

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._link is not None and self._link.is_open:
            self._link.disconnect()

    def __enter__(self) -> Watcher:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> Link:
        self._subscribed = False
        self._link = Link(self.address, timeout_s=self._timeout_s)
        self._link.open()
        return self._link

    def _subscribe(self, link: Link) -> None:
        # In one packet: of two in a row amqtt may lose one. At QoS 0: at QoS 1, of what is retained
        # mosquitto drops all beyond 1,000 messages, unless it is told otherwise.
        link.subscribe(*self._patterns, qos=0)
        self._subscribed = True
        self.error = ""
        self._rotation.move_to(self._rotation.place)

    def _advance(self, timeout_s: float) -> None:
        link = self._link
        if link is None or not link.is_open:
            self._reconnect_when_due(timeout_s)
            return
        link.step(timeout_s)
        if link.state == "connected" and not self._subscribed:
            self._subscribe(link)
        while link.received:
            received = link.received.popleft()
            arrival = _read(received)
            if arrival is not None:
                self._ready.append(arrival)
            elif topics.split(received.topic)[2].startswith(("cmd/", "reported")):
                self.others.append(received)
        if not link.is_open:
            self._plan(link)

    def _plan(self, link: Link) -> None:
        """When to try again after the end of a connection, and what to say until then."""
        held_s = time.monotonic() - (link.connected_at_s or time.monotonic())
        self._try_at_s = time.monotonic() + self._rotation.ended(link.reason, held_s)
        self.error = f"{self._rotation.why()}; trying again"

    def _reconnect_when_due(self, timeout_s: float) -> None:
        wait_s = self._try_at_s - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, timeout_s))
            return
        link = self._connect()
        if not link.is_open:
            self._plan(link)


def _read(received: Received) -> Arrival | None:
    """The message, or None for one that is not ours or can't be read."""
    fleet, device, path = topics.split(received.topic)
    if not path or not received.payload:
        return None
    try:
        envelope = decode(received.payload)
        metrics = envelope.metrics()
    except InputError as error:
        log.debug("%s is left out: %s", received.topic, error)
        return None
    return Arrival(
        topic=received.topic,
        fleet=fleet,
        device=device,
        path=path,
        envelope=envelope,
        metrics=metrics,
        is_retained=received.is_retained,
        at_s=time.monotonic(),
    )

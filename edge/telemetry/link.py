"""One connection to an MQTT broker, over paho; the only module that knows paho."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge.core.errors import UnavailableError
from edge.telemetry import tls
from edge.telemetry.address import BrokerAddress

if TYPE_CHECKING:
    from paho.mqtt.client import Client

QOS = 1
CONNECT_TIMEOUT_S = 10.0
State = Literal["connecting", "connected", "refused", "ended"]
Version = Literal["3.1.1", "5"]


_LOGIN = ("Not authorized", "Bad user name or password")


class Will(msgspec.Struct, frozen=True):
    """What the broker says when the connection ends without a goodbye."""

    topic: str
    payload: bytes
    is_retained: bool = True


class Received(msgspec.Struct, frozen=True):
    """A message from the broker; ``is_retained`` when it was there before we were.

    ``left_s`` is how much longer it holds, where who sent it has said so by MQTT 5: the broker
    counts that down, and drops what holds no more.
    """

    topic: str
    payload: bytes
    is_retained: bool
    left_s: float | None = None


class Waker:
    """Ends the wait of a thread in ``Link.step`` or in ``wait``; any thread may wake.

    That thread looks for what there is to do after each of its waits: it is woken once for all
    that came before it did.
    """

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        self._is_woken = False

    def wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(OSError):  # closed
                self._writing.send(b"\0")

    def fileno(self) -> int:
        return self._reading.fileno()

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._reading.recv(4096):
                pass
        self._is_woken = False  # who finds it set before now has put what we look for after this

    def wait(self, timeout_s: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            if selector.select(timeout_s):
                self.clear()

    def close(self) -> None:
        self._reading.close()
        self._writing.close()


class Link:
    """A connection from CONNECT to its end, driven by one thread through ``step``.

    ``has_been_cut``: it was the broker, or what is between, that hung up. What it takes at most
    is ``max_packet_bytes``, if it says so, as brokers of MQTT 5 may.

    paho's own threads are not used: on reconnect they send all that is unacknowledged at once,
    and they wait without jitter. A new connection is a new ``Link``.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str = "",
        will: Will | None = None,
        keepalive_s: int = 30,
        timeout_s: float = CONNECT_TIMEOUT_S,
        waker: Waker | None = None,
        version: Version = "3.1.1",
    ) -> None:
        self.address = address
        self.state: State = "connecting"
        self.reason = ""
        self.connected_at_s: float | None = None
        self.has_been_cut = False
        self.received: deque[Received] = deque()
        self._acknowledged: list[int] = []
        self._rejected: list[tuple[int, str]] = []
        self.max_packet_bytes: int | None = None
        self._keepalive_s = keepalive_s
        self._timeout_s = timeout_s
        self._deadline_s = 0.0
        self._waker = waker
        self._version = version
        self._selector = selectors.DefaultSelector()
        self._client = self._make_client(client_id, will, version)

    def open(self) -> None:
        """Connect and say CONNECT; the answer comes in a later ``step``.

        A failure is no exception: ``state`` is then ``ended``, with a ``reason``.
        """
        self._deadline_s = time.monotonic() + self._timeout_s
        try:
            if self.address.tls is not None:
                self._client.tls_set_context(tls.context(self.address.tls))
            self._client.connect(self.address.host, self.address.port, self._keepalive_s)
        except UnavailableError as error:
            self._end(str(error))
            return
        except (OSError, ValueError) as error:  # ValueError: no such thing as this host name
            told = tls.explain(error, self.address) if self.address.tls else ""
            told = told or getattr(error, "strerror", "") or str(error)
            self._end(told or type(error).__name__)
            return
        if not self.is_open:  # it was lost while CONNECT was sent
            return
        self._selector.register(self._socket(), selectors.EVENT_READ)
        if self._waker is not None:
            self._selector.register(self._waker, selectors.EVENT_READ)

    @property
    def is_open(self) -> bool:
        return self.state in ("connecting", "connected")

    def step(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` for traffic or the waker, and handle it; nothing once ended."""
        if not self.is_open:  # a ``send`` may find out that the connection is lost
            return
        writing = selectors.EVENT_WRITE if self._client.want_write() else 0
        self._selector.modify(self._socket(), selectors.EVENT_READ | writing)
        if self.state == "connecting":
            timeout_s = min(timeout_s, max(0.0, self._deadline_s - time.monotonic()))
        is_readable = self._has_pending()
        for key, events in self._selector.select(0.0 if is_readable else timeout_s):
            if key.fileobj is self._waker:
                self._waker.clear()
                continue
            is_readable |= bool(events & selectors.EVENT_READ)
            if events & selectors.EVENT_WRITE and self.is_open:
                self._client.loop_write()
        if is_readable and self.is_open:
            self._client.loop_read()
        if self.is_open:
            self._client.loop_misc()
        if self.state == "connecting" and time.monotonic() >= self._deadline_s:
            self._end(f"no answer to CONNECT in {self._timeout_s:g} s")

    def send(self, topic: str, payload: bytes, *, is_retained: bool, qos: int = QOS) -> int:
        """Hand a message over and return its number, which ``acknowledged`` will give back."""
        return self._client.publish(topic, payload, qos, is_retained).mid

    def packet_bytes(self, topic: str, payload: bytes) -> int:
        """The size of a message of QoS 1 as MQTT counts it for ``max_packet_bytes``."""
        properties = 1 if self._version == "5" else 0  # the length of none
        size = 2 + len(topic.encode()) + 2 + properties + len(payload)
        return 1 + -(-size.bit_length() // 7) + size

    def acknowledged(self) -> list[int]:
        """Numbers of the messages and subscriptions that the broker has taken since the last call.

        At QoS 0 no broker says so: those have left this program.
        """
        numbers, self._acknowledged = self._acknowledged, []
        return numbers

    def rejected(self) -> list[tuple[int, str]]:
        """Numbers of those it has refused since the last call, and why: only MQTT 5 says so."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def subscribe(self, *patterns: str, qos: int = QOS) -> int | None:
        """Ask for what comes under ``patterns``; its number comes back as that of a message."""
        return self._client.subscribe([(pattern, qos) for pattern in patterns])[1]

    def disconnect(self) -> None:
        """Say goodbye: the broker drops the will."""
        if self.state == "connected":
            self._client.disconnect()
        self.abort()

    def abort(self, reason: str = "closed") -> None:
        """Hang up: the broker publishes the will."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.state != "refused":
            self.state = "ended"
        self.reason = self.reason or reason
        self._selector.close()
        connection = self._client.socket()
        if connection is not None:
            connection.close()

    def _socket(self) -> socket.socket:
        connection: Any = self._client.socket()
        return connection  # type: ignore[no-any-return]

    def _has_pending(self) -> bool:
        """What TLS has read and nobody has taken yet, of which a selector knows nothing."""
        connection: Any = self._client.socket()
        return self.address.tls is not None and bool(connection.pending())

    def _make_client(self, client_id: str, will: Will | None, version: Version) -> Client:
        from paho.mqtt.client import Client, MQTTv5, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTv5 if version == "5" else MQTTv311
        )
        client.connect_timeout = self._timeout_s
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        if self.address.user:
            client.username_pw_set(self.address.user, self.address.password or None)
        if will is not None:
            client.will_set(will.topic, will.payload, QOS, retain=will.is_retained)
        return client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, props: Any) -> None:
        if code.is_failure:
            self.state, self.reason = "refused", str(code)
            if self.reason in _LOGIN:
                self.reason += " (is user:password@ in its URL right?)"
        else:
            self.state = "connected"
            self.connected_at_s = time.monotonic()
            self.max_packet_bytes = getattr(props, "MaximumPacketSize", None)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _props: Any) -> None:
        self.has_been_cut = str(code) != "Keep alive timeout"
        if self.connected_at_s is not None:
            self._end(f"connection lost ({code})")
        elif self.address.tls is None:
            self._end(f"it hung up before it answered ({code}); if it expects TLS, write mqtts://")
        else:
            self._end(f"it hung up after the TLS handshake, before it answered ({code})")

    def _on_publish(self, _client: Any, _data: Any, mid: int, code: Any, _props: Any) -> None:
        if code.is_failure:
            self._rejected.append((mid, str(code)))
        else:
            self._acknowledged.append(mid)

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, _codes: Any, _props: Any) -> None:
        self._acknowledged.append(mid)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        with contextlib.suppress(UnicodeDecodeError):
            left_s = getattr(message.properties, "MessageExpiryInterval", None)
            self.received.append(Received(message.topic, message.payload, message.retain, left_s))

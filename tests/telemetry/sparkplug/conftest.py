"""A wire that notes what an edge node sends, and Sparkplug by protobuf."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from patience import LONG_S, wait_until
from real_brokers import MOSQUITTO, Mosquitto

from edge.telemetry.address import BrokerAddress
from edge.telemetry.link import Link

CONNECT, PUBLISH, SUBSCRIBE, DISCONNECT = 1, 3, 8, 14

# sparkplug_b.proto of Eclipse Tahu (proto2): message -> name, number, type of each field.
MESSAGES = {
    "PropertyValue": "type 1 uint32, is_null 2 bool, int_value 3 uint32, long_value 4 uint64, "
    "float_value 5 float, double_value 6 double, boolean_value 7 bool, string_value 8 string",
    "PropertySet": "keys 1 string*, values 2 PropertyValue*",
    "Metric": "name 1 string, alias 2 uint64, timestamp 3 uint64, datatype 4 uint32, "
    "is_historical 5 bool, is_transient 6 bool, is_null 7 bool, properties 9 PropertySet, "
    "int_value 10 uint32, long_value 11 uint64, float_value 12 float, double_value 13 double, "
    "boolean_value 14 bool, string_value 15 string, bytes_value 16 bytes",
    "Payload": "timestamp 1 uint64, metrics 2 Metric*, seq 3 uint64, uuid 4 string, body 5 bytes",
}


@pytest.fixture(scope="session")
def proto() -> Any:
    """The class of a payload, by the protobuf package: nothing of ours is in it."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tahu.proto", package="tahu", syntax="proto2")
    for message, described in MESSAGES.items():
        told = file.message_type.add(name=message)
        for one in described.split(", "):
            name, number, kind = one.split()
            label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            added = told.field.add(name=name, number=int(number), label=label)
            if kind in MESSAGES:
                added.type, added.type_name = field.TYPE_MESSAGE, f".tahu.{kind}"
            else:
                added.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tahu.Payload"))


@pytest.fixture(scope="module")
def start_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Mosquitto]]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    started: list[Mosquitto] = []

    def start() -> Mosquitto:
        started.append(Mosquitto(tmp_path_factory.mktemp("mosquitto")))
        started[-1].start()
        return started[-1]

    yield start
    for broker in started:
        broker.stop()


class Packet(NamedTuple):
    """What was sent: ``topic`` is a pattern in a subscription, ``flags`` those of CONNECT."""

    kind: int
    topic: str = ""
    payload: bytes = b""
    qos: int = 0
    is_retained: bool = False
    flags: int = 0
    level: int = 0
    client_id: str = ""


class Wire:
    """A proxy to a broker that notes each MQTT packet of its clients, by connection."""

    def __init__(self, port: int) -> None:
        self._broker_port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = BrokerAddress("127.0.0.1", self._listening.getsockname()[1])
        self.connections: list[list[Packet]] = []
        self.open_count = 0
        self.most_open_count = 0
        self._sockets: list[socket.socket] = []
        self._counting = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Hang up on both sides."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # ends the wait for the next
        self._listening.close()
        self.cut()
        wait_until(lambda: self.open_count == 0, "the connections to end")
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
            except OSError:  # it is away
                client.close()
                continue
            self._sockets += [client, broker]
            self.connections.append([])
            with self._counting:
                self.open_count += 1
                self.most_open_count = max(self.most_open_count, self.open_count)
            noted = self.connections[-1]
            threading.Thread(target=self._pump, args=(client, broker, noted), daemon=True).start()
            threading.Thread(target=self._pump, args=(broker, client, None), daemon=True).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, noted: list[Packet] | None
    ) -> None:
        held = b""
        try:
            while data := source.recv(65536):
                if noted is not None:
                    held = _note(held + data, noted)
                target.sendall(data)
        except OSError:
            pass
        if noted is not None:
            with self._counting:
                self.open_count -= 1
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _note(held: bytes, noted: list[Packet]) -> bytes:
    """Take whole packets off ``held``; after chapter 2 and 3 of MQTT 3.1.1."""
    while len(held) >= 2:
        length, place = 0, 1
        while place < len(held):
            length |= (held[place] & 0x7F) << 7 * (place - 1)
            place += 1
            if held[place - 1] < 0x80:
                break
        else:
            return held
        if len(held) < place + length:
            return held
        noted.append(_packet(held[0], held[place : place + length]))
        held = held[place + length :]
    return held


def _packet(first: int, body: bytes) -> Packet:
    kind = first >> 4
    if kind == PUBLISH:
        topic, rest = _text(body)
        qos = first >> 1 & 3
        return Packet(kind, topic, rest[2 if qos else 0 :], qos, bool(first & 1))
    if kind == SUBSCRIBE:
        topic, rest = _text(body[2:])
        return Packet(kind, topic, qos=rest[0])
    if kind == CONNECT:
        level, flags = body[6], body[7]
        client_id, rest = _text(body[10:])
        topic, rest = _text(rest)
        (length,) = struct.unpack(">H", rest[:2])
        payload = rest[2 : 2 + length]
        qos, is_retained = flags >> 3 & 3, bool(flags & 0x20)
        return Packet(kind, topic, payload, qos, is_retained, flags, level, client_id)
    return Packet(kind)


def _text(body: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack(">H", body[:2])
    return body[2 : 2 + length].decode(), body[2 + length :]


@pytest.fixture(scope="module")
def wire() -> Iterator[Callable[[Mosquitto], Wire]]:
    made: list[Wire] = []

    def make(broker: Mosquitto) -> Wire:
        made.append(Wire(broker.port))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Host:
    """A host application, as far as these tests need one: it listens, commands and has a state."""

    def __init__(self, port: int, proto: Any) -> None:
        self.received: list[tuple[str, bytes, bool]] = []
        self.proto = proto
        self._outgoing: list[tuple[str, bytes, bool]] = []
        self._link = Link(BrokerAddress("127.0.0.1", port), timeout_s=LONG_S)
        self._link.open()
        while self._link.state == "connecting":
            self._link.step(LONG_S)
        self._link.subscribe("spBv1.0/#")
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, topic: str, payload: bytes, *, is_retained: bool = False) -> None:
        self._outgoing.append((topic, payload, is_retained))

    def state(self, name: str, *, online: bool, timestamp: int) -> None:
        payload = f'{{"online": {str(online).lower()}, "timestamp": {timestamp}}}'.encode()
        self.send(f"spBv1.0/STATE/{name}", payload, is_retained=True)
        wait_until(lambda: any(got[1] == payload for got in self.received), "the state")

    def kinds(self) -> list[str]:
        """NBIRTH, DDATA and so on, in the order of their arrival, but for what is historical."""
        return [
            topic.split("/")[2]
            for topic, payload, _ in list(self.received)
            if "/STATE/" not in topic and not self._is_history(topic, payload)
        ]

    def history(self, name: str) -> list[Any]:
        """What came of a metric that is of the past."""
        return [
            metric
            for topic, payload, _ in list(self.received)
            if self._is_history(topic, payload)
            for metric in self.proto.FromString(payload).metrics
            if metric.name == name
        ]

    def _is_history(self, topic: str, payload: bytes) -> bool:
        if topic.split("/")[2] not in ("NDATA", "DDATA"):
            return False
        return any(metric.is_historical for metric in self.proto.FromString(payload).metrics)

    def close(self) -> None:
        self._is_closing = True
        self._thread.join(LONG_S)

    def _run(self) -> None:
        while not self._is_closing and self._link.is_open:
            while self._outgoing:
                topic, payload, is_retained = self._outgoing.pop(0)
                self._link.send(topic, payload, is_retained=is_retained)
            self._link.step(0.01)
            while self._link.received:
                got = self._link.received.popleft()
                self.received.append((got.topic, got.payload, got.is_retained))
        self._link.disconnect()


@pytest.fixture(scope="module")
def host(proto: Any) -> Iterator[Callable[[Mosquitto], Host]]:
    made: list[Host] = []

    def make(broker: Mosquitto) -> Host:
        made.append(Host(broker.port, proto))
        return made[-1]

    yield make
    for one in made:
        one.close()

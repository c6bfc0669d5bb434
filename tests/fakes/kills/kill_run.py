"""A device and its broker, both killed at random: what was accepted, and what came of it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
from free_ports import free_port

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
DEADLINE_S = 120.0
_BUFFER_BYTES = 8 * 1024 * 1024

DEVICE = """
import sys, time
from pathlib import Path
from edge.telemetry.address import BrokerAddress
from edge.telemetry.outbox import Bounds
from edge.telemetry.sender import Delivery, Sender
from edge.telemetry.topics import Topics

folder, port, per_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
topics = Topics("lab", "one")
bounds = Bounds(
    history_burst=50, history_per_s=2000.0, checkpoint_count=200, checkpoint_s=2.0, fresh_s=0.1
)
delivery = Delivery(first_wait_s=0.05, longest_wait_s=0.2, folder=folder, bounds=bounds)
sender = Sender(BrokerAddress("127.0.0.1", port), topics, delivery)
sender.start()
print(sender._sealer.boot, 0, flush=True)
number, begun_s = 0, time.monotonic()
while True:
    if not per_s:  # only what waits
        time.sleep(60.0)
        continue
    for _ in range(20):
        number += 1
        is_event = number % 10 == 0
        kind = "event" if is_event else "tele"
        text = "x" * 60
        sender.send(topics.of(kind, "n"), {"n": number, "text": text}, is_event=is_event)
    if sender.backlog.commit():
        print(sender._sealer.boot, number, flush=True)
    time.sleep(max(0.0, begun_s + number / per_s - time.monotonic()))
"""


class Outcome(msgspec.Struct, frozen=True):
    """``reordered_count``: messages that came after a later one of their lane, for the first time.

    ``gap_reasons``: of each gap that was told; a write that was cut amid is ``damaged``.
    ``unaccepted_count`` came though the device died before it could say that they were safe.
    """

    accepted_count: int
    lost_count: int
    reordered_count: int
    duplicate_count: int
    unaccepted_count: int
    history_count: int
    gap_reasons: tuple[str, ...]
    device_kills: int
    broker_kills: int
    seconds: float


class Broker:
    """mosquitto behind a gate, which opens when the subscriber listens; it stores nothing."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(
            f"listener {self._port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 0\nset_tcp_nodelay true\n"
        )
        self._gate = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._gate.getsockname()[1]
        self._is_open = False
        self._process: subprocess.Popen[bytes] | None = None
        self.heard: list[bytearray] = []
        self._subscription: threading.Thread | None = None
        threading.Thread(target=self._let_in, daemon=True).start()

    def start(self) -> None:
        command = [str(MOSQUITTO), "-c", str(self._configuration)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                subscriber = self._subscribe()
                break
            except OSError:
                assert time.monotonic() < deadline_s, "mosquitto does not listen"
                time.sleep(0.01)
        self.heard.append(bytearray())
        self._subscription = threading.Thread(target=self._hear, args=(subscriber, self.heard[-1]))
        self._subscription.start()
        self._is_open = True

    def kill(self) -> None:
        self._is_open = False
        assert self._process
        assert self._subscription
        self._process.kill()
        self._process.wait()
        self._subscription.join()

    def close(self) -> None:
        self.kill()
        with contextlib.suppress(OSError):
            self._gate.shutdown(socket.SHUT_RDWR)  # ends the wait for the next
        self._gate.close()

    def _subscribe(self) -> socket.socket:
        """MQTT by hand, at QoS 0: nothing is ever sent that could reset the connection."""
        subscriber = socket.socket()
        try:
            subscriber.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            subscriber.connect(("127.0.0.1", self._port))
            topic = b"edge/v1/#"
            subscriber.sendall(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01s")
            subscriber.sendall(bytes((0x82, len(topic) + 5, 0, 1, 0, len(topic))) + topic + b"\0")
            answers = b""
            while len(answers) < 9:  # CONNACK and SUBACK
                data = subscriber.recv(9 - len(answers))
                if not data:
                    raise ConnectionError("no answer")
                answers += data
        except OSError:
            subscriber.close()
            raise
        return subscriber

    @staticmethod
    def _hear(subscriber: socket.socket, into: bytearray) -> None:
        with subscriber, contextlib.suppress(OSError):
            while data := subscriber.recv(1 << 20):
                into += data

    def _let_in(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                device, _ = self._gate.accept()
                if self._is_open:
                    threading.Thread(target=self._relay, args=(device,), daemon=True).start()
                else:
                    device.close()

    def _relay(self, device: socket.socket) -> None:
        address = ("127.0.0.1", self._port)
        with device, contextlib.suppress(OSError), socket.create_connection(address) as broker:
            back = threading.Thread(target=_pipe, args=(broker, device), daemon=True)
            back.start()
            _pipe(device, broker)
            back.join()


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Device:
    """A process that makes messages and says which are safe; one after another, on one outbox."""

    def __init__(self, folder: Path, port: int, per_s: float) -> None:
        self.accepted: dict[str, int] = {}  # in the order of the runs
        self._command = [sys.executable, "-c", DEVICE, str(folder / "outbox"), str(port)]
        self._per_s = per_s

    def start(self, *, is_talking: bool = True) -> None:
        command = [*self._command, str(self._per_s if is_talking else 0.0)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        has_begun = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout, has_begun))
        self._reader.start()
        assert has_begun.wait(DEADLINE_S), "the device does not begin"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    @property
    def accepted_count(self) -> int:
        return sum(list(self.accepted.values()))

    def _read(self, lines: Any, has_begun: threading.Event) -> None:
        with lines:
            for line in lines:
                boot, number = line.split()
                self.accepted[boot] = int(number)
                has_begun.set()


def run(folder: Path, count: int, kills: int, *, per_s: float = 1000.0, seed: int = 0) -> Outcome:
    """At least ``count`` messages, and ``kills`` of either; returns when all has come, or not."""
    chance = random.Random(seed)
    begun_s = time.monotonic()
    broker = Broker(folder)
    device = Device(folder, broker.port, per_s)
    broker.start()
    device.start()
    killed = {"device": 0, "broker": 0}
    pause_s = max(0.2, count / per_s / (2 * kills))
    while min(killed.values()) < kills or device.accepted_count < count:
        time.sleep(chance.uniform(0.3, 1.7) * pause_s)
        victim = chance.choice(sorted(killed))
        killed[victim] += 1
        target: Broker | Device = broker if victim == "broker" else device
        target.kill()
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0.0, 2.0 * pause_s))
        target.start()
    device.kill()
    device.start(is_talking=False)
    deadline_s = time.monotonic() + DEADLINE_S
    while _lost_count(device, broker) and time.monotonic() < deadline_s:
        _wait_for_silence(broker)
    device.kill()
    broker.close()
    return _judge(device.accepted, _arrivals(broker), killed, time.monotonic() - begun_s)


def _lost_count(device: Device, broker: Broker) -> int:
    accepted = dict(device.accepted)  # to which a reader may add
    return _judge(accepted, _arrivals(broker), {"device": 0, "broker": 0}, 0.0).lost_count


def _wait_for_silence(broker: Broker) -> None:
    heard = -1
    while len(broker.heard[-1]) != heard:
        heard = len(broker.heard[-1])
        time.sleep(1.0)


def _arrivals(broker: Broker) -> list[tuple[str, dict[str, Any]]]:
    return [arrival for data in broker.heard for arrival in _messages(bytes(data))]


def _messages(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Topic and envelope of each PUBLISH that came whole."""
    found, offset = [], 0
    while offset + 2 <= len(data):
        length, shift, place = 0, 0, offset + 1
        while True:
            length |= (data[place] & 0x7F) << shift
            shift, place = shift + 7, place + 1
            if data[place - 1] < 0x80 or place >= len(data):
                break
        end = place + length
        if end > len(data):
            break
        topic_end = place + 2 + int.from_bytes(data[place : place + 2], "big")
        topic = data[place + 2 : topic_end].decode()
        if topic.split("/")[4] in ("tele", "event"):
            found.append((topic, msgspec.json.decode(data[topic_end:end])))
        offset = end
    return found


def _judge(
    accepted: dict[str, int],
    arrivals: list[tuple[str, dict[str, Any]]],
    killed: dict[str, int],
    seconds: float,
) -> Outcome:
    runs = {boot: place for place, boot in enumerate(accepted)}
    wanted = {(boot, number) for boot, last in accepted.items() for number in range(1, last + 1)}
    seen: set[tuple[str, int]] = set()
    newest = {True: (-1, 0), False: (-1, 0)}
    reordered = duplicates = history = 0
    gaps: list[str] = []
    for topic, envelope in arrivals:
        if topic.endswith("/gap"):
            gaps.append(envelope["m"]["gap"]["reason"])
            continue
        key = (envelope["boot"], envelope["m"]["n"])
        if key in seen:
            duplicates += 1
            continue
        seen.add(key)
        history += envelope["hist"]
        place = (runs[key[0]], key[1])
        reordered += place < newest[envelope["hist"]]
        newest[envelope["hist"]] = max(newest[envelope["hist"]], place)
    return Outcome(
        accepted_count=len(wanted),
        lost_count=len(wanted - seen),
        reordered_count=reordered,
        duplicate_count=duplicates,
        unaccepted_count=len(seen - wanted),
        history_count=history,
        gap_reasons=tuple(gaps),
        device_kills=killed["device"],
        broker_kills=killed["broker"],
        seconds=round(seconds, 1),
    )

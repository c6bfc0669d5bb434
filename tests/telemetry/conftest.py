"""A broker of each kind, and who talks to it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import LONG_S, wait_until
from real_brokers import MOSQUITTO, BrokerControl, Embedded, Mosquitto

from edge.telemetry.address import Brokers, addresses
from edge.telemetry.sender import Delivery, Sender
from edge.telemetry.topics import Topics
from edge.telemetry.watcher import Arrival, Watcher

QUICK = Delivery(first_wait_s=0.02, longest_wait_s=0.1, timeout_s=LONG_S, keepalive_s=600)
TOPICS = Topics("lab", "one")

Reply = Callable[[bytes], bytes]
OPENSSL = shutil.which("openssl")


@pytest.fixture(params=["embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerControl]:
    """A broker that runs; both kinds forget what was retained when they stop."""
    if request.param == "mosquitto" and MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    control = Mosquitto(tmp_path) if request.param == "mosquitto" else Embedded()
    control.start()
    yield control
    control.stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts brokers with options."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    running: list[Mosquitto] = []

    def start(*options: str) -> Mosquitto:
        running.append(Mosquitto(tmp_path, *options))
        running[-1].start()
        return running[-1]

    yield start
    for control in running:
        control.stop()


class Authority:
    """A CA in a folder, and what it signs: paths of PEM files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.ca, self._key = folder / "ca.crt", folder / "ca.key"
        self._run(
            "req", "-x509", *self._new_key(self._key), "-out", str(self.ca), "-subj", "/CN=ca"
        )

    def sign(self, name: str, names: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        """A certificate for ``names`` and its key."""
        made = {end: self._folder / f"{name}.{end}" for end in ("key", "csr", "ext", "crt")}
        key, request, extensions, certificate = made.values()
        extensions.write_text(f"subjectAltName={names}")
        self._run("req", "-new", *self._new_key(key), "-out", str(request), "-subj", f"/CN={name}")
        signing = ("-CA", str(self.ca), "-CAkey", str(self._key), "-CAcreateserial")
        given = ("-in", str(request), "-extfile", str(extensions), "-days", str(days))
        self._run("x509", "-req", *signing, *given, "-out", str(certificate))
        return certificate, key

    @staticmethod
    def _new_key(path: Path) -> tuple[str, ...]:
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        return (*kind, "-nodes", "-keyout", str(path))

    @staticmethod
    def _run(*arguments: str) -> None:
        subprocess.run([str(OPENSSL), *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Authority]:
    """Certificate authorities by name."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("authorities")
    made: dict[str, Authority] = {}

    def named(name: str = "ours") -> Authority:
        return made.get(name) or made.setdefault(name, Authority(folder / name))

    return named


class Listener:
    """Collects what arrives; ``until`` waits for a message that a test is after."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.arrivals: list[Arrival] = []

    def until(self, wanted: Callable[[Arrival], bool], what: str = "a message") -> Arrival:
        """The first wanted message that was not returned before; older ones of its topic are
        dropped, as what is retained and what is not come in no order."""
        found: list[Arrival] = []

        def is_here() -> bool:
            for place, arrival in enumerate(self.arrivals):
                if wanted(arrival):
                    before = [one for one in self.arrivals[:place] if one.topic != arrival.topic]
                    self.arrivals[: place + 1] = before
                    found.append(arrival)
                    return True
            return False

        def has_come() -> bool:
            if not is_here():
                self.arrivals += self.watcher.poll(0.1)
            return bool(found) or is_here()

        wait_until(has_come, what)
        return found[0]


@pytest.fixture
def listen(broker: BrokerControl) -> Iterator[Callable[[], Listener]]:
    """Makes listeners to all devices; what is retained comes first."""
    watchers: list[Watcher] = []

    def make() -> Listener:
        watcher = Watcher(broker.url, timeout_s=LONG_S)
        watchers.append(watcher)
        watcher.open()
        return Listener(watcher)

    yield make
    for watcher in watchers:
        watcher.close()


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], bool], str], None]:
    """Waits for a condition, not for a time."""
    return wait_until


@pytest.fixture
def send(broker: BrokerControl) -> Callable[..., None]:
    """Sends bytes to the broker, and returns when it has them."""

    def deliver(topic: str, payload: bytes, *, is_retained: bool = False) -> None:
        link = broker.connect()
        number = link.send(topic, payload, is_retained=is_retained)
        while link.is_open and number not in link.acknowledged():
            link.step(LONG_S)
        assert link.is_open, link.reason
        link.disconnect()

    return deliver


class Server:
    """Accepts connections and answers each piece of data with ``reply``; a test may cut them."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.connections: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._start(self._accept)

    def cut(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(self.reply(data))

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()


class Proxy(Server):
    """Passes bytes on to a broker while ``is_open``, and hangs up otherwise."""

    def __init__(self, broker_port: int) -> None:
        self.is_open = True
        self._broker_port = broker_port
        super().__init__(lambda data: b"")

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if not self.is_open:
                return
            with socket.create_connection(("127.0.0.1", self._broker_port)) as broker:
                self.connections.append(broker)
                self._start(_pipe, broker, connection)
                _pipe(connection, broker)


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(broker: Any) -> Iterator[Proxy]:
    proxy = Proxy(broker.port)
    yield proxy
    proxy.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Server]]:
    """Starts servers that are no brokers."""
    servers: list[Server] = []

    def serve(reply: Reply) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def make_sender() -> Iterator[Callable[..., Sender]]:
    """Makes senders to a port or to brokers, started unless told otherwise."""
    senders: list[Sender] = []

    def make(where: int | Brokers, *, is_started: bool = True, **changes: Any) -> Sender:
        delivery = msgspec.structs.replace(QUICK, **changes)
        brokers = f"mqtt://127.0.0.1:{where}" if isinstance(where, int) else where
        sender = Sender(addresses(brokers), TOPICS, delivery)
        if is_started:
            sender.start()
            senders.append(sender)
        return sender

    yield make
    for sender in senders:
        sender.close(0.2)


class Reader:
    """What all devices say at one broker, in order."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.arrivals: list[Any] = []

    def numbers(self) -> list[int]:
        self.arrivals += self.watcher.poll(0.02)
        told = (arrival.metrics.get("number") for arrival in self.arrivals)
        return [number for number in told if number is not None]

    def gaps(self) -> list[dict[str, Any]]:
        self.arrivals += self.watcher.poll(0.02)
        return [arrival.metrics["gap"] for arrival in self.arrivals if arrival.path == "event/gap"]

    def states(self) -> list[tuple[str, str]]:
        self.arrivals += self.watcher.poll(0.02)
        found = [arrival.metrics for arrival in self.arrivals if arrival.path == "status"]
        return [(metrics["state"], metrics.get("reason", "")) for metrics in found]


@pytest.fixture
def read() -> Any:
    readers: list[Reader] = []

    def read(control: Any) -> Reader:
        readers.append(Reader(Watcher(control.url, timeout_s=LONG_S)))
        readers[-1].watcher.open()
        return readers[-1]

    yield read
    for reader in readers:
        reader.watcher.close()

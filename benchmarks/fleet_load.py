"""A thousand devices at one mosquitto: they connect at once, report, lose it, and come back.

    python benchmarks/fleet_load.py [--devices N]

Each device is a `Sender` as `edge serve` has one, with its outbox on disk, all defaults, and two
messages every 5 s; they share a few processes. One `Watcher` sees all that arrives. mosquitto is
killed with SIGKILL and started again after some seconds, on a port that the devices find closed
until the watcher listens there: what arrives without anybody listening could not be counted.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from edge.core.errors import UnavailableError
from edge.core.machine import machine
from edge.sensors import device_sensors
from edge.telemetry.address import addresses
from edge.telemetry.sender import Delivery, Sender
from edge.telemetry.topics import Topics
from edge.telemetry.watcher import Watcher

RESULTS = Path(__file__).parent / "results"
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PROCESSES, INTERVAL_S = 4, 5.0
STEADY_S, OUTAGE_S, PATIENCE_S = 45.0, 10.0, 90.0
MODEL = {
    "name": "squeezenet",
    "version": "1",
    "success_count": 15_000,
    "failure_count": 0,
    "latency_ms": {
        stage: {"mean": 1.23, "p50": 1.2, "p90": 1.5, "p99": 2.1}
        for stage in ("queue", "engine", "total")
    },
    "engine": "openvino",
    "precision": "int8",
    "placement": "CPU",
    "is_fallback": False,
}


class Usage(msgspec.Struct, frozen=True):
    cpu_s: float
    memory_bytes: int


class Storm(msgspec.Struct, frozen=True):
    """Seconds until half, 99 % and all of the devices were connected."""

    half_s: float
    most_s: float
    all_s: float


class Steady(msgspec.Struct, frozen=True):
    """Shares are of one core. ``delay_ms``: from a message's making to the watcher, p50 and p99."""

    messages_per_s: float
    delay_ms: tuple[float, float]
    broker_cpu: float
    broker_bytes: int
    device_cpu: float
    device_bytes: int
    watcher_cpu: float


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    devices: int
    processes: int
    interval_s: float
    payload_bytes: tuple[int, int]
    first: Storm
    steady: Steady
    outage_s: float
    back: Storm
    drained_s: float
    sent: int
    seen: int
    lost: int
    repeated: int
    waited: int
    reordered: int


def usage_of(pid: int) -> Usage:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return Usage(cpu_s, pss * 1024)


class Fleet:
    """The devices of one process; ``tick`` lets those report whose time it is."""

    def __init__(self, url: str, folder: Path, names: list[str]) -> None:
        device = device_sensors(Path("/")).read().metrics()
        self._messages = (
            ("device", device),
            ("model", {"window_s": INTERVAL_S, "models": [MODEL]}),
        )
        self.senders: list[tuple[Topics, Sender]] = []
        for name in names:
            topics = Topics("load", name)
            delivery = Delivery(folder=folder / name)
            self.senders.append((topics, Sender(addresses(url), topics, delivery)))
        self.counts = dict.fromkeys(names, 0)

    def start(self) -> None:
        for _, sender in self.senders:
            sender.start()

    def report(self, topics: Topics, sender: Sender) -> None:
        for group, metrics in self._messages:
            self.counts[topics.device] += 1
            number = self.counts[topics.device]
            sender.send(topics.of("tele", group), {"n": number, **metrics})

    @property
    def connected_count(self) -> int:
        return sum(sender.state == "connected" for _, sender in self.senders)

    @property
    def waiting_count(self) -> int:
        """Devices of which something is still on its way or waits for it."""
        return sum(
            bool(
                status.in_flight_count or status.outbox.waiting_bytes or sender.backlog.has_history
            )
            for _, sender in self.senders
            for status in [sender.status()]
        )


def _is_waiting(sender: Sender) -> bool:
    status = sender.status()
    waits = status.in_flight_count or status.outbox.waiting_bytes
    return bool(waits) or sender.backlog.has_history


def serve_fleet(orders: Connection, url: str, folder: Path, names: list[str], is_open: Any) -> None:
    """The program of a process of devices: obeys one order after another."""
    logging.disable()  # a thousand devices tell of one broker
    connect = socket.create_connection

    def create_connection(*given: Any, **named: Any) -> socket.socket:
        if not is_open.value:
            raise ConnectionRefusedError(111, "Connection refused")
        return connect(*given, **named)

    socket.create_connection = create_connection
    before = usage_of(os.getpid())
    fleet = Fleet(url, folder, names)
    is_talking = threading.Event()
    threading.Thread(target=talk, args=(fleet, is_talking), daemon=True).start()
    answers: dict[str, Any] = {
        "start": fleet.start,
        "talk": is_talking.set,
        "hush": is_talking.clear,
        "connected": lambda: fleet.connected_count,
        "waiting": lambda: fleet.waiting_count,
        "counts": lambda: fleet.counts,
        "usage": lambda: (usage_of(os.getpid()), before.memory_bytes),
    }
    while (order := orders.recv()) != "end":
        orders.send(answers[order]())
    os._exit(0)


def talk(fleet: Fleet, is_talking: threading.Event) -> None:
    """Each device every ``INTERVAL_S``, evenly over the interval."""
    step_s = INTERVAL_S / len(fleet.senders)
    while is_talking.wait():
        due_s = time.monotonic()
        for topics, sender in fleet.senders:
            if not is_talking.is_set():
                break
            fleet.report(topics, sender)
            due_s += step_s
            time.sleep(max(0.0, due_s - time.monotonic()))


class Broker:
    """mosquitto that keeps nothing on disk, and queues without end for its one reader."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 0\nmax_inflight_messages 0\nlog_dest none\n"
        )

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._configuration)])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Sight(msgspec.Struct):
    """What the watcher saw."""

    numbers: dict[str, dict[int, int]] = {}
    newest: dict[tuple[str, bool], int] = {}
    delays_ms: list[float] = []
    waited: int = 0
    reordered: int = 0
    payload_bytes: dict[str, int] = {}


class Reader(threading.Thread):
    """Watches the fleet through the broker's deaths; ``is_listening`` says when it may come."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.is_listening = threading.Event()
        self.sight = Sight()
        self.cpu_s = 0.0
        self._url = url

    def run(self) -> None:
        while True:
            watcher = Watcher(self._url, "load")
            try:
                watcher.open()
            except UnavailableError:
                time.sleep(0.05)
                continue
            self._watch(watcher)
            watcher.close()

    def _watch(self, watcher: Watcher) -> None:
        settled_s = time.monotonic() + 0.2  # for the subscription to hold
        while watcher.is_connected:
            for arrival in watcher.poll(0.05):
                self._see(arrival)
            self.cpu_s = time.thread_time()
            if time.monotonic() >= settled_s:
                self.is_listening.set()
        self.is_listening.clear()

    def _see(self, arrival: Any) -> None:
        if not arrival.path.startswith("tele/"):
            return
        sight, number = self.sight, arrival.metrics["n"]
        seen = sight.numbers.setdefault(arrival.device, {})
        seen[number] = seen.get(number, 0) + 1
        sight.waited += arrival.envelope.hist
        if seen[number] == 1:
            lane = (arrival.device, arrival.envelope.hist)
            sight.reordered += number < sight.newest.get(lane, 0)
            sight.newest[lane] = max(number, sight.newest.get(lane, 0))
        if not arrival.envelope.hist:
            sight.delays_ms.append(time.time() * 1e3 - arrival.envelope.ts_ms)
        sight.payload_bytes[arrival.path] = len(msgspec.json.encode(arrival.envelope))


class Load:
    """The whole run, step by step."""

    def __init__(self, folder: Path, devices: int) -> None:
        self._broker = Broker(folder)
        self._reader = Reader(self._broker.url)
        context = multiprocessing.get_context("spawn")
        self._is_open = context.Value("b", 0)
        names = [f"device-{number:04}" for number in range(devices)]
        self._devices = devices
        self._orders = []
        self._processes = []
        for place in range(PROCESSES):
            orders, theirs = context.Pipe()
            given = (theirs, self._broker.url, folder, names[place::PROCESSES], self._is_open)
            process = context.Process(target=serve_fleet, args=given, daemon=True)
            process.start()
            self._orders.append(orders)
            self._processes.append(process)
        self._ask("connected")  # all are made

    def run(self) -> Result:
        self._reader.start()
        self._open_broker()
        self._ask("start")
        first = self._storm()
        self._ask("talk")
        time.sleep(INTERVAL_S)
        steady = self._steady()
        self._is_open.value = 0
        self._broker.kill()
        time.sleep(OUTAGE_S)
        self._open_broker()
        back = self._storm()
        self._ask("hush")
        begun_s = time.monotonic()
        while sum(self._ask("waiting")) and time.monotonic() - begun_s < PATIENCE_S:
            time.sleep(0.2)
        drained_s = time.monotonic() - begun_s
        time.sleep(2.0)  # for the watcher
        return self._judge(first, steady, back, drained_s)

    def close(self) -> None:
        for orders in self._orders:
            orders.send("end")
        self._broker.kill()

    def _ask(self, order: str) -> list[Any]:
        for orders in self._orders:
            orders.send(order)
        return [orders.recv() for orders in self._orders]

    def _open_broker(self) -> None:
        self._broker.start()
        self._reader.is_listening.wait()
        self._is_open.value = 1

    def _storm(self) -> Storm:
        begun_s, reached = time.monotonic(), {}
        goals = {"half": 0.5, "most": 0.99, "all": 1.0}
        while len(reached) < len(goals):
            count = sum(self._ask("connected"))
            now_s = time.monotonic() - begun_s
            for goal, share in goals.items():
                if count >= share * self._devices:
                    reached.setdefault(goal, round(now_s, 2))
            assert now_s < PATIENCE_S, f"{count} of {self._devices} devices are connected"
            time.sleep(0.02)
        return Storm(reached["half"], reached["most"], reached["all"])

    def _steady(self) -> Steady:
        def cpu_s() -> tuple[float, float, float]:
            devices_s = sum(usage.cpu_s for usage, _ in self._ask("usage"))
            return usage_of(self._broker.process.pid).cpu_s, devices_s, self._reader.cpu_s

        before, begun_s = cpu_s(), time.monotonic()
        self._reader.sight.delays_ms.clear()
        time.sleep(STEADY_S)
        spent_s = time.monotonic() - begun_s
        delays_ms = sorted(self._reader.sight.delays_ms)
        broker, devices, watcher = (
            (after - earlier) / spent_s for after, earlier in zip(cpu_s(), before, strict=True)
        )
        memory = sum(usage.memory_bytes - empty for usage, empty in self._ask("usage"))
        return Steady(
            messages_per_s=round(len(delays_ms) / spent_s, 1),
            delay_ms=(
                round(statistics.median(delays_ms), 1),
                round(delays_ms[int(len(delays_ms) * 0.99)], 1),
            ),
            broker_cpu=round(broker, 4),
            broker_bytes=usage_of(self._broker.process.pid).memory_bytes,
            device_cpu=round(devices / self._devices, 6),
            device_bytes=memory // self._devices,
            watcher_cpu=round(watcher, 4),
        )

    def _judge(self, first: Storm, steady: Steady, back: Storm, drained_s: float) -> Result:
        sight = self._reader.sight
        counts = {name: count for told in self._ask("counts") for name, count in told.items()}
        lost = sum(
            count - len(sight.numbers.get(name, {}).keys() & set(range(1, count + 1)))
            for name, count in counts.items()
        )
        seen = sum(map(len, sight.numbers.values()))
        repeats = sum(sum(numbers.values()) for numbers in sight.numbers.values()) - seen
        version = subprocess.run([str(MOSQUITTO), "-h"], capture_output=True, text=True).stdout
        return Result(
            machine=machine(),
            versions={"python": sys.version.split()[0], "mosquitto": version.split()[2]},
            devices=self._devices,
            processes=PROCESSES,
            interval_s=INTERVAL_S,
            payload_bytes=(min(sight.payload_bytes.values()), max(sight.payload_bytes.values())),
            first=first,
            steady=steady,
            outage_s=OUTAGE_S,
            back=back,
            drained_s=round(drained_s, 1),
            sent=sum(counts.values()),
            seen=seen,
            lost=lost,
            repeated=repeats,
            waited=sight.waited,
            reordered=sight.reordered,
        )


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    steady, (smallest, largest) = result.steady, result.payload_bytes
    return "\n".join(
        [
            f"# {result.devices:,} devices at one broker",
            "",
            f"On {result.machine}; {versions}; all of it on this one machine.",
            "Made by `python benchmarks/fleet_load.py`; the figures are in `fleet_load.json`.",
            "",
            f"Each device reports two messages ({smallest} and {largest} bytes) every"
            f" {result.interval_s:g} s at QoS 1, from an outbox on disk;",
            f"{result.processes} processes hold them. mosquitto is killed (SIGKILL) and is back"
            f" after {result.outage_s:g} s.",
            "",
            "| connected | half | 99 % | all |",
            "|---|---:|---:|---:|",
            *(
                f"| {name} | {storm.half_s:.1f} s | {storm.most_s:.1f} s | {storm.all_s:.1f} s |"
                for name, storm in (
                    ("all at once, at the start", result.first),
                    ("after the broker was back", result.back),
                )
            ),
            "",
            f"Steady, {steady.messages_per_s:.0f} messages a second; from a device to the watcher:"
            f" {steady.delay_ms[0]:g} ms (99 % within {steady.delay_ms[1]:g}).",
            "",
            "| | share of a core | memory |",
            "|---|---:|---:|",
            f"| mosquitto | {steady.broker_cpu:.1%} | {steady.broker_bytes / 2**20:.1f} MiB |",
            f"| a device | {steady.device_cpu:.3%} | {steady.device_bytes / 2**10:.0f} KiB |",
            f"| a watcher of all | {steady.watcher_cpu:.1%} | |",
            "",
            "Memory is the proportional set size; a device's is what it adds to its process.",
            "",
            "| sent | seen | lost | repeated | of them waited | reordered |",
            "|---:|---:|---:|---:|---:|---:|",
            f"| {result.sent} | {result.seen} | {result.lost} | {result.repeated} "
            f"| {result.waited} | {result.reordered} |",
            "",
            "Repeated: the broker died before its answer came. Reordered: came for the first time",
            "after a later one of its lane (live, or what waited). All that waited was delivered",
            f"{result.drained_s:.1f} s after the last device was back.",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    devices = parser.parse_args().devices
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        load = Load(Path(folder), devices)
        try:
            result = load.run()
        finally:
            load.close()
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fleet_load.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "fleet_load.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What keeping telemetry costs: the flash, the caller, the processor; and whether it is kept.

    python benchmarks/outbox.py [--kills]

Bytes are counted in the file layer; pages are those of 4 KiB that a sync has to write, with one for
each sync of the folder. SQLite (WAL, synchronous=FULL) is a peer that many use for the same: its
bytes are what the kernel says that the process gave to the disk. Processor time is that of all
threads of a process which samples, keeps and sends, and of one that does not send. ``--kills``
repeats the run of 100,000 messages in which a device and a mosquitto are killed at random.
"""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge.core.machine import machine
from edge.host import Runtime
from edge.settings import Mqtt, Settings
from edge.telemetry import publish
from edge.telemetry.backlog import EVENT, TELEMETRY
from edge.telemetry.broker import EmbeddedBroker
from edge.telemetry.outbox import Bounds, DiskFiles, Outbox, Worker

RESULTS = Path(__file__).parent / "results"
FAKES = Path(__file__).parent.parent / "tests" / "fakes"
PAYLOAD_BYTES = 236
COUNTS_PER_COMMIT = (1, 10, 60, 300)  # 60 is a message a second at a commit a minute
MESSAGES = 6000
PUTS = 20_000
CPU_S = 40.0
TARGET_RATIO, TARGET_CPU = 2.0, 0.01


class WearRow(msgspec.Struct, frozen=True):
    """Bytes per message."""

    per_commit: int
    written: float
    pages: float
    ratio: float
    pages_ratio: float
    sqlite: float


class Result(msgspec.Struct, frozen=True):
    """Times in microseconds: median, 99th percentile and longest; processor: shares of a core."""

    machine: str
    python: str
    payload_bytes: int
    wear: tuple[WearRow, ...]
    put_us: tuple[float, float, float]
    take_us: float
    cpu: dict[str, float]
    kills: dict[str, Any]


def wear(per_commit: int, folder: Path) -> WearRow:
    files = DiskFiles(folder / f"outbox-{per_commit}")
    outbox = Outbox(files, (TELEMETRY, EVENT), lambda gap: b"")
    payload = os.urandom(PAYLOAD_BYTES)
    for number in range(1, MESSAGES + 1):
        outbox.put(TELEMETRY, payload)
        if number % per_commit == 0:
            outbox.commit()
    written, pages = files.wear.bytes / MESSAGES, files.wear.page_bytes / MESSAGES
    outbox.close()
    return WearRow(
        per_commit=per_commit,
        written=round(written, 1),
        pages=round(pages, 1),
        ratio=round(written / PAYLOAD_BYTES, 2),
        pages_ratio=round(pages / PAYLOAD_BYTES, 2),
        sqlite=round(sqlite_bytes(per_commit, folder) / MESSAGES, 1),
    )


def sqlite_bytes(per_commit: int, folder: Path) -> int:
    """What the process gave to the disk, by /proc/self/io."""
    database = sqlite3.connect(folder / f"peer-{per_commit}.sqlite")
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table outbox (seq integer primary key, payload blob)")
    database.commit()
    payload, before = os.urandom(PAYLOAD_BYTES), _given_to_disk()
    for number in range(1, MESSAGES + 1):
        database.execute("insert into outbox (payload) values (?)", (payload,))
        if number % per_commit == 0:
            database.commit()
    database.close()
    return _given_to_disk() - before


def _given_to_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def put_and_take(folder: Path) -> tuple[tuple[float, float, float], float]:
    """Puts while the worker writes beside them; then all is read back from the disk."""
    bounds = Bounds(history_burst=PUTS, memory_bytes=64 * 1024)
    outbox = Outbox(DiskFiles(folder / "puts"), (TELEMETRY, EVENT), lambda gap: b"", bounds)
    worker = Worker(outbox)
    worker.start()
    payload = os.urandom(PAYLOAD_BYTES)
    spent = []
    for number in range(PUTS):
        kind = EVENT if number % 50 == 0 else TELEMETRY
        begun = time.perf_counter_ns()
        outbox.put(kind, payload)
        spent.append((time.perf_counter_ns() - begun) / 1e3)
        time.sleep(0.0005)
    outbox.commit()
    begun, count = time.perf_counter_ns(), 0
    outbox.begin()
    while taken := outbox.take():
        outbox.acknowledge(taken[0].seq)
        count += 1
    took_us = (time.perf_counter_ns() - begun) / 1e3 / count
    worker.close(10.0)
    spent.sort()
    figures = (statistics.median(spent), spent[int(len(spent) * 0.99)], spent[-1])
    return (round(figures[0], 1), round(figures[1], 1), round(figures[2], 1)), round(took_us, 1)


def cpu_shares(folder: Path) -> dict[str, float]:
    """Of telemetry once a second: to a broker that answers, and to one that is not there."""
    shares = {}
    with EmbeddedBrokerProcess() as broker, socket.socket() as nobody, Runtime() as runtime:
        nobody.bind(("127.0.0.1", 0))
        absent = f"mqtt://127.0.0.1:{nobody.getsockname()[1]}"
        for name, url in (("connected", broker.url), ("no broker", absent)):
            mqtt = Mqtt(url=url, device="bench", interval_s=1.0, outbox=str(folder / name))
            with publish(runtime, Settings(mqtt=mqtt)):
                time.sleep(3.0)
                shares[name] = round(_busy_share(lambda: time.sleep(CPU_S)), 5)
    return shares


class EmbeddedBrokerProcess:
    """A broker that is no part of what is measured."""

    def __init__(self) -> None:
        self._reading, writing = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            broker = EmbeddedBroker()
            os.write(writing, broker.url.encode())
            time.sleep(3600)
        self.url = os.read(self._reading, 100).decode()

    def __enter__(self) -> EmbeddedBrokerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._child, 9)
        os.waitpid(self._child, 0)


def _busy_share(wait: Callable[[], object]) -> float:
    begun, used = time.monotonic(), time.process_time()
    wait()
    return (time.process_time() - used) / (time.monotonic() - begun)


def kill_figures() -> dict[str, Any]:
    sys.path[:0] = [str(FAKES / name) for name in ("kills", "machine")]
    import kill_run

    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_run.run(Path(folder), 100_000, 50)
    figures: dict[str, Any] = msgspec.structs.asdict(outcome)
    return figures


def markdown(result: Result) -> str:
    lines = [
        "# What keeping telemetry costs",
        "",
        f"On {result.machine}; Python {result.python}.",
        "Made by `python benchmarks/outbox.py --kills`; the figures are in `outbox.json`.",
        "",
        f"Bytes written per message of {result.payload_bytes} bytes. To reach at a commit a minute",
        f"and a message a second (60): at most {TARGET_RATIO:g} times the payload. Pages of 4 KiB",
        "are what a sync must write at the least; SQLite is WAL with synchronous=FULL.",
        "",
        "| messages per commit | written | × payload | in pages | × payload | SQLite |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result.wear:
        lines.append(
            f"| {row.per_commit} | {row.written:.0f} | {row.ratio:.2f} | {row.pages:.0f} "
            f"| {row.pages_ratio:.2f} | {row.sqlite:.0f} |"
        )
    middle, high, longest = result.put_us
    lines += [
        "",
        f"To put a message, while another thread writes and syncs: {middle:g} µs (99 % within",
        f"{high:g}, longest {longest:g}). To take one from disk and acknowledge it:",
        f"{result.take_us:g} µs.",
        "",
        f"Processor of all telemetry at an interval of 1 s (to reach: {TARGET_CPU:.0%} of a core):",
        "",
        "| | share of a core |",
        "|---|---:|",
        *(f"| {name} | {share:.2%} |" for name, share in result.cpu.items()),
    ]
    if result.kills:
        kills = result.kills
        lines += [
            "",
            f"A device killed {kills['device_kills']} times and a mosquitto {kills['broker_kills']}"
            f" times, at random, in {kills['seconds']:.0f} s:",
            "",
            "| accepted | lost | reordered | duplicates | of them waited | gaps told |",
            "|---:|---:|---:|---:|---:|---:|",
            f"| {kills['accepted_count']} | {kills['lost_count']} | {kills['reordered_count']} "
            f"| {kills['duplicate_count']} | {kills['history_count']} "
            f"| {', '.join(kills['gap_reasons']) or 'none'} |",
            "",
            "Accepted is what the device said was safe; reordered is what came for the first time",
            "after a later one of its lane (live, or what waited).",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", action="store_true", help="takes some minutes")
    with_kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        put_us, take_us = put_and_take(folder)
        result = Result(
            machine=machine(),
            python=sys.version.split()[0],
            payload_bytes=PAYLOAD_BYTES,
            wear=tuple(wear(count, folder) for count in COUNTS_PER_COMMIT),
            put_us=put_us,
            take_us=take_us,
            cpu=cpu_shares(folder),
            kills=kill_figures() if with_kills else {},
        )
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "outbox.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "outbox.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

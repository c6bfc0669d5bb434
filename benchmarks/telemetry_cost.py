"""What telemetry takes from a device: processor at one sample a second, and time of inferences.

    python benchmarks/telemetry_cost.py

Processor: of a process that holds a model and all that `edge serve` switches on by default,
without telemetry and with it, to a mosquitto that answers and to nobody.

Inferences: one after another, on a core of their own, in rounds of three turns whose order is drawn
by lot: twice without telemetry and once with it while the broker is dead. The two without it show
what the method finds where there is nothing to find. That is about as much as it looks for, so the
turns with telemetry are also compared with themselves: see `telemetry_ratios.py`.

Takes seven minutes, on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from telemetry_ratios import NAMES, Comparison, Round, Turn, compared, milliseconds

import edge
from edge.bundle import pack
from edge.core import plugins
from edge.core.machine import machine
from edge.core.manifest import FileEntry, Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.host import Runtime
from edge.settings import Cost, Health, Mqtt, Power, Settings
from edge.telemetry import publish

RESULTS = Path(__file__).parent / "results"
MODEL = Path(__file__).parents[2] / "shared" / "data" / "models" / "squeezenet1.1.onnx"
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SHAPE = (1, 3, 224, 224)
CPU_S, ROUNDS, TURN_S, SETTLE_S, CLOSE_S = 20.0, 36, 3.0, 0.3, 0.1
TARGET_CPU, TARGET_CHANGE = 0.01, 0.01
THREADS = ("edge-telemetry", "edge-mqtt", "edge-outbox", "edge-commands", "edge-desired")


class Result(msgspec.Struct, frozen=True):
    """``cpu``: shares of a core. ``milliseconds``: by turn, median and 99th percentile.

    ``busy_ms_per_s``: processor that telemetry's threads used while inferences ran.
    """

    machine: str
    versions: dict[str, str]
    cpu: dict[str, float]
    rounds: int
    turn_s: float
    inferences: dict[str, int]
    milliseconds: dict[str, tuple[float, float]]
    busy_ms_per_s: float
    median: Comparison
    p99: Comparison


def bundle(folder: Path) -> Path:
    data = MODEL.read_bytes()
    parts = folder / "parts"
    place = parts / "variants" / "only"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(data)
    variant = Variant(
        id="only",
        engine="onnxruntime",
        precision="fp32",
        files=(FileEntry("model.onnx", hashlib.sha256(data).hexdigest(), len(data)),),
        inputs=(TensorSpec("data", "float32", SHAPE),),
        outputs=(TensorSpec("logits", "float32", (1, 1000)),),
        options={"threads": 1},
    )
    manifest = Manifest(
        schema=1,
        name="squeezenet",
        version="1",
        task="tensors",
        profile="host",
        source_sha256=hashlib.sha256(data).hexdigest(),
        variants=(variant,),
    )
    return pack(manifest, parts, folder / "squeezenet.edge")


@contextlib.contextmanager
def telemetry(runtime: Runtime, url: str, folder: Path) -> Iterator[list[int]]:
    """One sample a second, nothing without a URL; gives the clocks of its threads' processor."""
    mqtt = Mqtt(url=url, device="bench", interval_s=1.0, outbox=str(folder))
    publisher = publish(runtime, Settings(mqtt=mqtt), runtime=runtime) if url else None
    time.sleep(SETTLE_S)
    threads = [thread for thread in threading.enumerate() if thread.name in THREADS]
    try:
        yield [time.pthread_getcpuclockid(thread.ident or 0) for thread in threads]
    finally:
        if publisher is not None:
            publisher.close(CLOSE_S)


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = folder / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(configuration)])
    try:
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def busy_share() -> float:
    begun_s, used_s = time.monotonic(), time.process_time()
    time.sleep(CPU_S)
    return (time.process_time() - used_s) / (time.monotonic() - begun_s)


def cpu_shares(runtime: Runtime, absent: str, folder: Path) -> dict[str, float]:
    shares = {}
    with mosquitto(folder) as present:
        for name, url in (("no telemetry", ""), ("connected", present), ("no broker", absent)):
            with telemetry(runtime, url, folder / name):
                shares[name] = round(busy_share(), 5)
    return shares


@contextlib.contextmanager
def own_core() -> Iterator[None]:
    """The last core for this thread; all others may run there too, and go where it is quiet."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def turn(runtime: Runtime, clocks: list[int]) -> Turn:
    """Inferences, one after another."""
    feeds = {"data": np.random.default_rng(0).random(SHAPE, np.float32)}
    begun_ns, spent_ns = [], []
    used_ns = [sum(map(time.clock_gettime_ns, clocks))]
    with own_core():
        end_ns = time.perf_counter_ns() + int(TURN_S * 1e9)
        while (now_ns := time.perf_counter_ns()) < end_ns:
            runtime.infer("squeezenet", feeds)
            spent_ns.append(time.perf_counter_ns() - now_ns)
            begun_ns.append(now_ns)
            used_ns.append(sum(map(time.clock_gettime_ns, clocks)))
    return Turn(np.array(begun_ns) / 1e9, np.array(spent_ns) / 1e6, np.diff(used_ns) / 1e6)


def one_round(runtime: Runtime, absent: str, folder: Path, chance: random.Random) -> Round:
    turns = {}
    for name in chance.sample(NAMES, len(NAMES)):
        url = absent if name == "broker dead" else ""
        with telemetry(runtime, url, folder / "turns") as clocks:
            turns[name] = turn(runtime, clocks)
    return Round(turns)


def measure(folder: Path, count: int) -> Result:
    started = {"power": Power(), "cost": Cost(), "health": Health()}
    with socket.socket() as nobody, Runtime(bundle(folder), **started) as runtime:
        nobody.bind(("127.0.0.1", 0))
        absent = f"mqtt://127.0.0.1:{nobody.getsockname()[1]}"
        runtime.load_all()
        turn(runtime, [])  # warm-up
        chance = random.Random(0)
        rounds = [one_round(runtime, absent, folder, chance) for _ in range(count)]
        cpu = cpu_shares(runtime, absent, folder)
    dead = [one.turns["broker dead"] for one in rounds]
    return Result(
        machine=machine(),
        versions={
            "python": sys.version.split()[0],
            "edge": edge.__version__,
            "onnxruntime": plugins.backend("onnxruntime").availability().version,
        },
        cpu=cpu,
        rounds=count,
        turn_s=TURN_S,
        inferences={name: sum(len(one.turns[name].spent_ms) for one in rounds) for name in NAMES},
        milliseconds={name: milliseconds(rounds, name) for name in NAMES},
        busy_ms_per_s=round(sum(float(one.busy_ms.sum()) for one in dead) / len(dead) / TURN_S, 2),
        median=compared(rounds, 50),
        p99=compared(rounds, 99),
    )


def processor_table(result: Result) -> list[str]:
    alone = result.cpu["no telemetry"]
    return [
        "Processor of a process with a model, all that is on by default, one sample a second",
        f"(to reach: telemetry takes at most {TARGET_CPU:.0%} of a core):",
        "",
        "| telemetry | share of a core | added |",
        "|---|---:|---:|",
        *(
            f"| {name} | {share:.2%} | {f'{share - alone:.2%}' if share != alone else ''} |"
            for name, share in result.cpu.items()
        ),
        "",
    ]


def inference_tables(result: Result) -> list[str]:
    median, p99 = result.median, result.p99
    ratios = {
        "broker dead / without telemetry": (median.dead, p99.dead),
        "its noise: without telemetry, again / without": (median.control, p99.control),
        "broker dead: with / without those beside telemetry": (median.beside, p99.beside),
        "its noise: the same at other moments": (median.beside_control, p99.beside_control),
    }
    return [
        "SqueezeNet 1.1 (onnxruntime, fp32, one thread, on a core of its own),"
        f" {result.rounds} rounds of three turns of {result.turn_s:g} s",
        "each, in an order by lot. All inferences of a kind together:",
        "",
        "| | inferences | median, ms | 99 % within, ms |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {result.inferences[name]:,} | {middle:.2f} | {most:.2f} |"
            for name, (middle, most) in result.milliseconds.items()
        ),
        "",
        "Ratios, each time as a multiple of the median of its round, with 95 % confidence by"
        " bootstrap over rounds.",
        f"To reach: a 99th percentile that differs by at most {TARGET_CHANGE:.0%}.",
        "",
        "| | median | 99 % within |",
        "|---|---:|---:|",
        *(f"| {what} | {middle} | {most} |" for what, (middle, most) in ratios.items()),
        "",
        f"Telemetry's threads ran for {result.busy_ms_per_s:.2f} ms of each second, beside"
        f" {p99.share_beside:.1%} of the inferences",
        "(counting the two after each). They sleep otherwise and change nothing then, so that the"
        " others are as without",
        "telemetry, in the same seconds: the comparison with the least noise. It leaves as many out"
        " above, at random.",
        "",
    ]


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        "# What telemetry takes from a device",
        "",
        f"On {result.machine}; {versions}.",
        "Made by `python benchmarks/telemetry_cost.py`; the figures are in `telemetry_cost.json`.",
        "",
        *processor_table(result),
        *inference_tables(result),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, help="to try it out: nothing is kept")
    rounds = parser.parse_args().rounds
    logging.disable(logging.WARNING)  # that nobody is there is the point
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        result = measure(Path(folder), rounds or ROUNDS)
    table = markdown(result)
    print(table)
    if not rounds:
        (RESULTS / "telemetry_cost.md").write_text(table)
        encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
        (RESULTS / "telemetry_cost.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What telemetry takes from a device: processor at one sample a second, and time of inferences.

    python benchmarks/telemetry_cost.py

Processor: of a process that holds a model and all that `edge serve` switches on by default,
without telemetry and with it, to a mosquitto that answers and to nobody. Inferences: one after
another, without telemetry and with it while the broker is dead, in turns; a pair of turns gives
the ratio of their medians and 99th percentiles. On a machine that has other work, `nice -n -10`
keeps that out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

import edge
from edge.bundle import pack
from edge.core import plugins
from edge.core.machine import machine
from edge.core.manifest import FileEntry, Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.host import Runtime
from edge.settings import Mqtt, Settings
from edge.telemetry import publish

RESULTS = Path(__file__).parent / "results"
MODEL = Path(__file__).parents[2] / "shared" / "data" / "models" / "squeezenet1.1.onnx"
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SHAPE = (1, 3, 224, 224)
CPU_S, PAIRS, TURN_S, SETTLE_S, CLOSE_S = 20.0, 60, 1.5, 0.3, 0.1
TARGET_CPU, TARGET_RATIO = 0.01, 1.01


class Spread(msgspec.Struct, frozen=True):
    """Median, and quartiles."""

    median: float
    low: float
    high: float


class Result(msgspec.Struct, frozen=True):
    """``cpu``: shares of a core. Times in milliseconds: off, then with a dead broker.

    ``p99_ratio_interval`` has the median of the ratios in 95 of 100 cases, by bootstrap.
    """

    machine: str
    versions: dict[str, str]
    nice: int
    cpu: dict[str, float]
    pairs: int
    inferences_per_turn: int
    p50_ms: tuple[Spread, Spread]
    p99_ms: tuple[Spread, Spread]
    p50_ratio: Spread
    p99_ratio: Spread
    p99_ratio_interval: tuple[float, float]
    pooled_p99_ratio: float


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
def telemetry(runtime: Runtime, url: str, folder: Path) -> Iterator[None]:
    """One sample a second; nothing without a URL."""
    if not url:
        yield
        return
    mqtt = Mqtt(url=url, device="bench", interval_s=1.0, outbox=str(folder))
    publisher = publish(runtime, Settings(mqtt=mqtt), runtime=runtime)
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
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


def turn(runtime: Runtime, feeds: dict[str, np.ndarray]) -> list[float]:
    """Milliseconds of inferences, one after another."""
    spent_ms = []
    end_s = time.monotonic() + TURN_S
    while time.monotonic() < end_s:
        begun_ns = time.perf_counter_ns()
        runtime.infer("squeezenet", feeds)
        spent_ms.append((time.perf_counter_ns() - begun_ns) / 1e6)
    return spent_ms


def turns(runtime: Runtime, absent: str, folder: Path) -> tuple[list[list[float]], ...]:
    """Of each pair the times without telemetry, and with it; which is first alternates."""
    feeds = {"data": np.random.default_rng(0).random(SHAPE, np.float32)}
    turn(runtime, feeds)  # warm-up
    off: list[list[float]] = []
    dead: list[list[float]] = []
    for number in range(PAIRS):
        states = [("", off), (absent, dead)]
        for url, into in states if number % 2 else states[::-1]:
            with telemetry(runtime, url, folder / "turns"):
                into.append(turn(runtime, feeds))
    return off, dead


def of_turns(turns_ms: list[list[float]], percent: int) -> list[float]:
    return [float(np.percentile(times_ms, percent)) for times_ms in turns_ms]


def spread(values: list[float], digits: int) -> Spread:
    low, median, high = (round(float(q), digits) for q in np.percentile(values, (25, 50, 75)))
    return Spread(median, low, high)


def measure(folder: Path) -> Result:
    with socket.socket() as nobody, Runtime(bundle(folder)) as runtime:
        nobody.bind(("127.0.0.1", 0))
        absent = f"mqtt://127.0.0.1:{nobody.getsockname()[1]}"
        runtime.load_all()
        off, dead = turns(runtime, absent, folder)
        cpu = cpu_shares(runtime, absent, folder)
    found = {percent: (of_turns(off, percent), of_turns(dead, percent)) for percent in (50, 99)}
    pooled = [float(np.percentile(np.concatenate(state), 99)) for state in (off, dead)]
    ratios = {
        percent: [with_it / without for without, with_it in zip(*states, strict=True)]
        for percent, states in found.items()
    }
    return Result(
        machine=machine(),
        versions={
            "python": sys.version.split()[0],
            "edge": edge.__version__,
            "onnxruntime": plugins.backend("onnxruntime").availability().version,
        },
        nice=os.nice(0),
        cpu=cpu,
        pairs=PAIRS,
        inferences_per_turn=int(statistics.median(map(len, off + dead))),
        p50_ms=(spread(found[50][0], 3), spread(found[50][1], 3)),
        p99_ms=(spread(found[99][0], 3), spread(found[99][1], 3)),
        p50_ratio=spread(ratios[50], 4),
        p99_ratio=spread(ratios[99], 4),
        p99_ratio_interval=interval_of_median(ratios[99]),
        pooled_p99_ratio=round(pooled[1] / pooled[0], 4),
    )


def interval_of_median(values: list[float]) -> tuple[float, float]:
    chance = np.random.default_rng(0)
    medians = [np.median(chance.choice(values, len(values))) for _ in range(10_000)]
    low, high = np.percentile(medians, (2.5, 97.5))
    return round(float(low), 3), round(float(high), 3)


def shown(found: Spread, digits: int) -> str:
    return f"{found.median:.{digits}f} ({found.low:.{digits}f} … {found.high:.{digits}f})"


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    alone = result.cpu["no telemetry"]
    rows = [
        f"| {name} | {share:.2%} | {'' if name == 'no telemetry' else f'{share - alone:.2%}'} |"
        for name, share in result.cpu.items()
    ]
    off_p50, dead_p50 = result.p50_ms
    off_p99, dead_p99 = result.p99_ms
    return "\n".join(
        [
            "# What telemetry takes from a device",
            "",
            f"On {result.machine}; {versions}; at a niceness of {result.nice}.",
            "Made by `python benchmarks/telemetry_cost.py`; the figures are in"
            " `telemetry_cost.json`.",
            "",
            "Processor of a process with a model, all that is on by default, one sample a second",
            f"(to reach: telemetry takes at most {TARGET_CPU:.0%} of a core):",
            "",
            "| telemetry | share of a core | added |",
            "|---|---:|---:|",
            *rows,
            "",
            f"SqueezeNet 1.1 (onnxruntime, fp32, one thread), {result.pairs} pairs of turns of"
            f" about {result.inferences_per_turn} inferences;",
            "medians of the turns with quartiles. To reach: a 99th percentile that differs by at"
            f" most {TARGET_RATIO - 1:.0%}.",
            "",
            "| | without telemetry, ms | broker dead, ms | ratio |",
            "|---|---:|---:|---:|",
            f"| median | {shown(off_p50, 2)} | {shown(dead_p50, 2)} "
            f"| {shown(result.p50_ratio, 3)} |",
            f"| 99 % within | {shown(off_p99, 2)} | {shown(dead_p99, 2)} "
            f"| {shown(result.p99_ratio, 3)} |",
            "",
            "The ratio is the median of those of the pairs (at 99 %: between"
            f" {result.p99_ratio_interval[0]:.3f} and {result.p99_ratio_interval[1]:.3f}"
            " with 95 % confidence);",
            f"of all inferences together it is {result.pooled_p99_ratio:.3f} at 99 %.",
            "",
        ]
    )


def main() -> int:
    logging.disable(logging.WARNING)  # that nobody is there is the point
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        result = measure(Path(folder))
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "telemetry_cost.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "telemetry_cost.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

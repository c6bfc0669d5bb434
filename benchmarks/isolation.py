"""What a process of its own costs a model per run, and how fast it is back after `kill -9`.

    python benchmarks/isolation.py

The first table runs one ONNX model in this process and in a worker; calls alternate one by one, in
either order. A round gives the difference and the ratio of its medians, and the table the median
of the rounds with the lowest and the highest. The second kills the worker of one of three models
under load again and again, and looks at what became of the requests of all.
"""

from __future__ import annotations

import hashlib
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx

import edge
from edge.bundle import pack
from edge.core import plugins
from edge.core.contracts import WorkerStatus
from edge.core.errors import EdgeError
from edge.core.machine import machine
from edge.core.manifest import FileEntry, Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.settings import ModelSettings

RESULTS = Path(__file__).parent / "results"
ROUNDS = 9
PAIRS = 400
WARM_UP_PAIRS = 40
KILLS = 11
TARGET_RECOVERY_S = 2.0
APART = ModelSettings(isolation="process")

SHAPES = {"tiny": ((1, 3), 4), "602 KB in, 4 KB out": ((1, 3, 224, 224), 1000)}

Spread = tuple[float, float, float]


class Overhead(msgspec.Struct, frozen=True):
    """Microseconds per run, and their ratio: median, lowest and highest of the rounds."""

    model: str
    inside_us: float
    apart_us: float
    added_us: Spread
    ratio: Spread


class Recovery(msgspec.Struct, frozen=True):
    """Seconds from the kill to the first answer after it, and what became of all requests."""

    seconds: Spread
    killed: int
    answered: dict[str, int]
    failed: dict[str, int]


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    rounds: int
    pairs_per_round: int
    overhead: tuple[Overhead, ...]
    recovery: Recovery


def network(shape: tuple[int, ...], classes: int) -> bytes:
    """The mean of each channel, and a product of it: cheap, whatever the input's size."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.random.default_rng(0).standard_normal((shape[1], classes)).astype(np.float32)
    pool = [] if len(shape) == 2 else [make.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3])]
    if pool:
        pool[0].attribute.append(make.make_attribute("keepdims", 0))
    graph = make.make_graph(
        [*pool, make.make_node("MatMul", ["m" if pool else "x", "w"], ["y"])],
        "network",
        [make.make_tensor_value_info("x", kind, shape)],
        [make.make_tensor_value_info("y", kind, [1, classes])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opsets = [make.make_opsetid("", 17)]
    return bytes(make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def bundle(name: str, shape: tuple[int, ...], classes: int, folder: Path) -> Path:
    data = network(shape, classes)
    parts = folder / f"{name}.parts"
    (parts / "variants" / "only").mkdir(parents=True)
    (parts / "variants" / "only" / "model.onnx").write_bytes(data)
    variant = Variant(
        id="only",
        engine="onnxruntime",
        precision="fp32",
        files=(FileEntry("model.onnx", hashlib.sha256(data).hexdigest(), len(data)),),
        inputs=(TensorSpec("x", "float32", shape),),
        outputs=(TensorSpec("y", "float32", (1, classes)),),
        options={"threads": 1},
    )
    manifest = Manifest(
        schema=1,
        name=name,
        version="1",
        task="tensors",
        profile="host",
        source_sha256="0" * 64,
        variants=(variant,),
    )
    return pack(manifest, parts, folder / f"{name}.edge")


def one_round(inside: Callable[[], object], apart: Callable[[], object]) -> tuple[float, float]:
    """Medians of both, in microseconds."""
    clock = time.perf_counter_ns
    times: tuple[list[int], list[int]] = ([], [])
    calls = ((inside, times[0]), (apart, times[1]))
    for number in range(WARM_UP_PAIRS + PAIRS):
        for call, into in calls if number % 2 else calls[::-1]:
            start = clock()
            call()
            into.append(clock() - start)
    inside_us, apart_us = (statistics.median(spent[WARM_UP_PAIRS:]) / 1e3 for spent in times)
    return inside_us, apart_us


def overhead(title: str, folder: Path) -> Overhead:
    shape, classes = SHAPES[title]
    path = bundle(f"size{classes}", shape, classes, folder)
    feeds = {"x": np.random.default_rng(1).random(shape, np.float32)}
    with edge.load(path) as inside, edge.load(path, settings=APART) as apart:
        rounds = [
            one_round(lambda: inside.infer(feeds), lambda: apart.infer(feeds))
            for _ in range(ROUNDS)
        ]
    return Overhead(
        model=title,
        inside_us=round(statistics.median(inside_us for inside_us, _ in rounds), 1),
        apart_us=round(statistics.median(apart_us for _, apart_us in rounds), 1),
        added_us=spread([apart_us - inside_us for inside_us, apart_us in rounds], 1),
        ratio=spread([apart_us / inside_us for inside_us, apart_us in rounds], 2),
    )


class Client(threading.Thread):
    """Asks one model again and again; ``answered_s`` is when it was last answered."""

    def __init__(self, runtime: edge.Runtime, name: str) -> None:
        super().__init__()
        self.name = name
        self.answered = self.failed = 0
        self.answered_s = 0.0
        self.stop = threading.Event()
        self._runtime = runtime

    def run(self) -> None:
        feeds = {"x": np.ones((1, 3, 224, 224), np.float32)}
        while not self.stop.is_set():
            try:
                self._runtime.infer(self.name, feeds)
                self.answered += 1
                self.answered_s = time.monotonic()
            except EdgeError:
                self.failed += 1
            time.sleep(0.002)


def recovery(folder: Path) -> Recovery:
    """Each time with a new runtime: the host's back-off grows with every death."""
    shape, classes = SHAPES["602 KB in, 4 KB out"]
    names = ("killed", "apart", "inside")
    paths = [bundle(name, shape, classes, folder) for name in names]
    seconds = []
    answered, failed = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for _ in range(KILLS):
        with edge.Runtime(*paths, models={"killed": APART, "apart": APART}) as runtime:
            runtime.load_all()
            clients = {name: Client(runtime, name) for name in names}
            for client in clients.values():
                client.start()
            time.sleep(1)
            seconds.append(kill(runtime, clients["killed"]))
            time.sleep(0.5)
            for name, client in clients.items():
                client.stop.set()
                client.join()
                answered[name] += client.answered
                failed[name] += client.failed
    return Recovery(spread(seconds, 3), KILLS, answered, failed)


def kill(runtime: edge.Runtime, client: Client) -> float:
    """Seconds until the first answer after it."""
    start_s = time.monotonic()
    os.kill(worker_of(runtime, client.name).pid, signal.SIGKILL)
    while not worker_of(runtime, client.name).restarts:
        time.sleep(0.001)
    again_s = time.monotonic()  # no worker answers now
    while client.answered_s < again_s:
        time.sleep(0.001)
    return client.answered_s - start_s


def worker_of(runtime: edge.Runtime, name: str) -> WorkerStatus:
    worker = next(status.worker for status in runtime.status() if status.name == name)
    assert worker is not None
    return worker


def spread(values: list[float], digits: int) -> Spread:
    middle, low, high = statistics.median(values), min(values), max(values)
    return round(middle, digits), round(low, digits), round(high, digits)


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        "# What a process of its own costs a model",
        "",
        f"On {result.machine}; {versions}.",
        "Made by `python benchmarks/isolation.py`; the figures are in `isolation.json`.",
        "",
        f"Medians of {result.rounds} rounds of {result.pairs_per_round} pairs, with the lowest and",
        "the highest; calls of `Model.infer` alternate one by one. The model computes next to",
        "nothing, with one thread.",
        "",
        "| tensors | in this process, µs | in a worker, µs | added, µs | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result.overhead:
        added = "{:.1f} ({:.1f} … {:.1f})".format(*row.added_us)
        ratio = "{:.2f} ({:.2f} … {:.2f})".format(*row.ratio)
        lines.append(
            f"| {row.model} | {row.inside_us:.1f} | {row.apart_us:.1f} | {added} | {ratio} |"
        )
    found = result.recovery
    seconds = "{:.2f} s ({:.2f} … {:.2f})".format(*found.seconds)
    lines += [
        "",
        "Three models under load, each asked by one thread; the worker of one is killed by",
        f"SIGKILL {found.killed} times. It answers again after **{seconds}**, of which the host",
        f"waits 0.1 s before it starts another one; to reach: {TARGET_RECOVERY_S:g} s.",
        "",
        "| model | answered | failed |",
        "|---|---:|---:|",
        *(
            f"| {title} | {found.answered[name]} | {found.failed[name]} |"
            for name, title in (
                ("killed", "in the worker that is killed"),
                ("apart", "in another worker"),
                ("inside", "in the host's process"),
            )
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        rows = tuple(overhead(title, Path(folder)) for title in SHAPES)
        found = recovery(Path(folder))
    versions = {
        "onnxruntime": plugins.backend("onnxruntime").availability().version,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    result = Result(machine(), versions, ROUNDS, PAIRS, rows, found)
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "isolation.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "isolation.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

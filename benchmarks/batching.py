"""What batching gives at concurrency 8, and what it takes from a lone caller.

    python benchmarks/batching.py

Contenders share one session and take turns, in an order that changes from round to round. The raw
loop is the least that batching by hand takes: one thread copies eight callers' arrays into a batch
and calls ONNX Runtime, again and again; nobody waits for answers, and a single row is not copied.
Its best size is the bound. Ours are eight threads, each of which sends one row, waits for its
answer and sends the next one. For a lone caller, calls alternate one by one.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime

import edge
from edge.bundle import pack
from edge.core.machine import machine
from edge.core.manifest import FileEntry, Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.host import Snapshot, Statistics
from edge.host.batching import BatchPlan
from edge.host.scheduler import Scheduler
from edge.host.seat import Seat
from edge.settings import ModelSettings

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MODELS = {
    "digits": HERE.parent / "examples/digits/digits.onnx",
    "squeezenet1.1": HERE.parent.parent / "shared/data/models/squeezenet1.1.onnx",
}
CALLERS = MAX_BATCH = 8
RAW_SIZES = (1, 2, 4, 8)
ROUNDS = 7
BLOCK_S = 1.5
WARM_UP_S = 0.2
LONE_PAIRS = 400
SETTINGS = {
    "one by one": ModelSettings(),
    "batches": ModelSettings(max_batch=MAX_BATCH),
    "batches, 0.5 ms": ModelSettings(max_batch=MAX_BATCH, max_delay_us=500),
    "batches, 2 ms": ModelSettings(max_batch=MAX_BATCH, max_delay_us=2000),
}
UNBATCHED = "one by one"
TARGET_SHARE, TARGET_RATIO = 0.95, 1.05

Feeds = dict[str, Any]
Spread = tuple[float, float, float]
"""Median, lowest and highest of the rounds."""


class Throughput(msgspec.Struct, frozen=True):
    """Rows per second; ``share`` is that of the best raw loop in the same round."""

    model: str
    contender: str
    per_second: Spread
    share: Spread
    mean_batch: float


class Lone(msgspec.Struct, frozen=True):
    """Milliseconds of a lone caller, and p99 as a ratio to that without batches."""

    model: str
    contender: str
    p50_ms: Spread
    p99_ms: Spread
    p99_ratio: Spread


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    rounds: int
    throughput: tuple[Throughput, ...]
    lone: tuple[Lone, ...]


def bundle(name: str, source: Path, folder: Path) -> Path:
    data = source.read_bytes()
    session = onnxruntime.InferenceSession(data)
    inputs, outputs = (
        tuple(TensorSpec(one.name, "float32", tuple(one.shape)) for one in tensors)
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    place = folder / name / "variants/raw"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    variant = Variant(
        id="raw",
        engine="onnxruntime",
        precision="fp32",
        files=(FileEntry("model.onnx", digest, len(data)),),
        inputs=inputs,
        outputs=outputs,
    )
    manifest = Manifest(
        schema=1,
        name=name,
        version="1",
        task="tensors",
        profile="host",
        source_sha256=digest,
        variants=(variant,),
    )
    return pack(manifest, folder / name, folder / f"{name}.edge")


class Bench:
    """One model, its session, and who shares it."""

    def __init__(self, name: str, model: edge.Model) -> None:
        self.name = name
        (spec,) = model.inputs
        noise = np.random.default_rng(0)
        rows = noise.random((CALLERS, *spec.shape[1:]), np.float32)
        self.feeds: list[Feeds] = [{spec.name: rows[n : n + 1]} for n in range(CALLERS)]
        self.batch: Feeds = {spec.name: np.empty_like(rows)}
        self.input = spec.name
        session: Any = model.opened.session
        self.raw = session._session.run
        self.counts: dict[str, Statistics] = {}
        self.schedulers: dict[str, Scheduler] = {}
        for contender, settings in SETTINGS.items():
            plan = model.batches if settings.max_batch > 1 else BatchPlan()
            self.counts[contender] = Statistics()
            seat = Seat(name, model.opened, plan)
            self.schedulers[contender] = Scheduler(name, seat, settings, self.counts[contender])

    def raw_rate(self, size: int) -> float:
        run, name = self.raw, self.input
        arrays = [feeds[name] for feeds in self.feeds[:size]]
        batch = self.batch[name][:size]
        (single, *_), feeds = self.feeds, {name: batch}

        def once() -> int:
            for number, array in enumerate(arrays):
                batch[number : number + 1] = array
            run(None, feeds)
            return size

        def once_alone() -> int:
            run(None, single)
            return 1

        return rate(once if size > 1 else once_alone)

    def our_rate(self, contender: str) -> float:
        """Rows per second of all callers together."""
        submit = self.schedulers[contender].submit
        rates = [0.0] * CALLERS

        def call(number: int) -> None:
            feeds = self.feeds[number]

            def once() -> int:
                submit(feeds).result()
                return 1

            rates[number] = rate(once)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(rates)

    def lone_times(self) -> dict[str, list[float]]:
        """Milliseconds of calls by one thread, the contenders in turns."""
        feeds, clock = self.feeds[0], time.perf_counter
        times: dict[str, list[float]] = {contender: [] for contender in self.schedulers}
        order = list(self.schedulers.items())
        for number in range(LONE_PAIRS):
            for contender, scheduler in turned(order, number):
                start = clock()
                scheduler.submit(feeds).result()
                times[contender].append((clock() - start) * 1e3)
        return times

    def close(self) -> None:
        for scheduler in self.schedulers.values():
            scheduler.close()


def rate(once: Callable[[], int]) -> float:
    """Rows per second, after a while to warm up."""
    clock = time.perf_counter
    end = clock() + WARM_UP_S
    while clock() < end:
        once()
    start = now = clock()
    rows = 0
    while now < start + BLOCK_S:
        rows += once()
        now = clock()
    return rows / (now - start)


def turned(items: list[Any], number: int) -> Iterator[Any]:
    """All items, beginning with another one each time."""
    start = number % len(items)
    yield from items[start:]
    yield from items[:start]


def spread(values: list[float], digits: int) -> Spread:
    return (
        round(statistics.median(values), digits),
        round(min(values), digits),
        round(max(values), digits),
    )


def measure_throughput(bench: Bench) -> list[Throughput]:
    rates: dict[str, list[float]] = {}
    before = {contender: counts.snapshot() for contender, counts in bench.counts.items()}
    order: list[tuple[str, Callable[[], float]]] = [
        (f"raw loop of {size}", lambda size=size: bench.raw_rate(size))  # type: ignore[misc]
        for size in RAW_SIZES
    ]
    order += [
        (contender, lambda contender=contender: bench.our_rate(contender))  # type: ignore[misc]
        for contender in SETTINGS
    ]
    for number in range(ROUNDS):
        for contender, run in turned(order, number):
            print(f"\r{bench.name}: round {number + 1} of {ROUNDS}, {contender:20}", end="")
            rates.setdefault(contender, []).append(run())
    print()
    raw = [rates[contender] for contender, _ in order if contender.startswith("raw")]
    best = [max(one[number] for one in raw) for number in range(ROUNDS)]
    return [
        Throughput(
            model=bench.name,
            contender=contender,
            per_second=spread(rates[contender], 1),
            share=spread([mine / b for mine, b in zip(rates[contender], best, strict=True)], 3),
            mean_batch=(
                mean_batch(before[contender], bench.counts[contender].snapshot())
                if contender in before
                else float(contender.rpartition(" ")[2])
            ),
        )
        for contender, _ in order
    ]


def mean_batch(before: Snapshot, after: Snapshot) -> float:
    requests = after.success_count - before.success_count
    return round(requests / (after.execution_count - before.execution_count), 2)


def measure_lone(bench: Bench) -> list[Lone]:
    rounds = [bench.lone_times() for _ in range(ROUNDS + 1)][1:]
    figures = {
        contender: [np.percentile(one[contender], [50, 99]) for one in rounds]
        for contender in SETTINGS
    }
    base = [p99 for _, p99 in figures[UNBATCHED]]
    return [
        Lone(
            model=bench.name,
            contender=contender,
            p50_ms=spread([float(p50) for p50, _ in values], 4),
            p99_ms=spread([float(p99) for _, p99 in values], 4),
            p99_ratio=spread([float(p99 / b) for (_, p99), b in zip(values, base, strict=True)], 3),
        )
        for contender, values in figures.items()
    ]


def shown(value: Spread, digits: int) -> str:
    return "{:.{d}f} ({:.{d}f}–{:.{d}f})".format(*value, d=digits)


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        "# Batches",
        "",
        f"On {result.machine}; {versions}.",
        "Made by `python benchmarks/batching.py`; the figures are in `batching.json`.",
        "",
        f"Median of {result.rounds} alternating rounds, with the lowest and the highest, all on",
        f"one session in FP32. {CALLERS} callers are threads that send one row, wait and send the",
        "next. The raw loop is one thread that copies rows into a batch and runs it (a single row",
        "as it is), with neither requests nor answers around it. The time is how long a batch may",
        f"wait for company. To reach: a share of at least {TARGET_SHARE} of the best raw loop, and",
        f"a p99 of a lone caller of at most {TARGET_RATIO} of that without batches.",
        "Where a row takes less than a request's way through Python's threads, as with digits,",
        "that way is the bound. Low lowest values are rounds in which something else ran.",
        "",
        "| model | contender | rows/s | share of the best raw loop | rows per batch |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row.model} | {row.contender} | {shown(row.per_second, 1)} | {shown(row.share, 3)} "
        f"| {row.mean_batch:.1f} |"
        for row in result.throughput
    ]
    lines += [
        "",
        "| model | a lone caller | p50, ms | p99, ms | p99 / one by one |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row.model} | {row.contender} | {shown(row.p50_ms, 3)} | {shown(row.p99_ms, 3)} "
        f"| {shown(row.p99_ratio, 3)} |"
        for row in result.lone
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    throughput: list[Throughput] = []
    lone: list[Lone] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, source in MODELS.items():
            if not source.is_file():
                print(f"{name} is left out: there is no {source}")
                continue
            path = bundle(name, source, Path(folder))
            settings = ModelSettings(max_batch=MAX_BATCH)
            with edge.load(path, fallback="deny", settings=settings) as model:
                bench = Bench(name, model)
                lone += measure_lone(bench)
                throughput += measure_throughput(bench)
                bench.close()
    versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    result = Result(machine(), versions, ROUNDS, tuple(throughput), tuple(lone))
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "batching.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "batching.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Memory over many loads, and many models in little of it.

    python benchmarks/residency.py

Cycles: four real models (`../shared/data`), each loaded, run once and unloaded in turn, by the
runtime and by the engine alone (`InferenceSession` made and deleted, as a server by hand would), in
a fresh process each; resident memory after the 50th cycle and at the end. Budget: 20 models of
100 MB of weights behind a runtime with a budget of 1 GiB, asked at random by four threads, a few of
them more often than the others; resident memory is looked at every 20 ms. No time is compared.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from edge.bundle import pack
from edge.core.machine import machine
from edge.core.manifest import FileEntry, Manifest, Variant
from edge.core.process import resident_bytes
from edge.core.tensor import TensorSpec

RESULTS = Path(__file__).parent / "results"
MODELS = Path(__file__).parent.parent.parent / "shared" / "data" / "models"
CYCLED = {
    "squeezenet1.1": (1, 3, 224, 224),
    "mobilenetv2_caltech101": (1, 3, 224, 224),
    "ultraface_version-RFB-320": (1, 3, 240, 320),
    "super_resolution_10": (1, 1, 224, 224),
}
CYCLES, SETTLED = 1000, 50
LARGE, LARGE_BYTES, BUDGET = 20, 100_000_000, 1 << 30
THREADS, REQUESTS = 4, 150
MIB = 1 << 20


class Cycled(msgspec.Struct, frozen=True):
    """Resident memory of one process over its cycles, in bytes."""

    engine: str
    way: str
    cycles: int
    settled_bytes: int
    end_bytes: int
    highest_bytes: int

    @property
    def growth(self) -> float:
        return self.end_bytes / self.settled_bytes - 1


class Crowd(msgspec.Struct, frozen=True):
    """What became of random requests to more models than fit."""

    requests: int
    failed: int
    loads: int
    evictions: int
    model_bytes: int
    used_bytes: int
    before_bytes: int
    highest_bytes: int
    hot_ms: float
    cold_ms: float


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    cycles: tuple[Cycled, ...]
    crowd: Crowd


def bundle(name: str, engine: str, model: bytes, specs: Any, folder: Path) -> Path:
    parts = folder / f"parts-{name}"
    place = parts / f"variants/{engine}/model.onnx"
    place.parent.mkdir(parents=True)
    place.write_bytes(model)
    entry = FileEntry("model.onnx", hashlib.sha256(model).hexdigest(), len(model))
    variant = Variant(engine, engine, "fp32", (entry,), *specs)
    manifest = Manifest(
        schema=1,
        name=name,
        version="1",
        task="tensors",
        profile="host",
        source_sha256=entry.sha256,
        variants=(variant,),
    )
    return pack(manifest, parts, folder / f"{name}.edge")


def feeds_of(name: str) -> dict[str, Any]:
    graph = onnx.load(MODELS / f"{name}.onnx", load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    (given,) = (value.name for value in graph.input if value.name not in constants)
    return {given: np.random.default_rng(1).random(CYCLED[name], np.float32)}


def by_runtime(engine: str, folder: Path) -> Iterator[Callable[[], object]]:
    """One load, run and unload of each model at a time."""
    import edge

    fed = {}
    for name in CYCLED:
        data = (MODELS / f"{name}.onnx").read_bytes()
        bundle(name.replace(".", "-"), engine, data, ((), ()), folder)
        fed[name.replace(".", "-")] = feeds_of(name)
    with edge.Runtime(folder) as runtime:
        while True:
            for name, feeds in fed.items():

                def cycle(name: str = name, feeds: Any = feeds) -> None:
                    runtime.load(name)
                    runtime.infer(name, feeds)
                    runtime.unload(name)

                yield cycle


def by_hand(engine: str, folder: Path) -> Iterator[Callable[[], object]]:
    fed = {name: feeds_of(name) for name in CYCLED}

    def onnxruntime_cycle(name: str) -> None:
        import onnxruntime

        path = str(MODELS / f"{name}.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        session.run(None, fed[name])

    def openvino_cycle(name: str) -> None:
        import openvino

        compiled = openvino.Core().compile_model(MODELS / f"{name}.onnx", "CPU")
        compiled.create_infer_request().infer(fed[name])

    cycle = onnxruntime_cycle if engine == "onnxruntime" else openvino_cycle
    while True:
        for name in CYCLED:
            yield lambda name=name: cycle(name)


WAYS = {"edge": by_runtime, "by hand": by_hand}


def cycle_here(engine: str, way: str) -> None:
    """Print what a process of its own saw."""
    with tempfile.TemporaryDirectory() as folder:
        cycles = WAYS[way](engine, Path(folder))
        sizes = []
        for _ in range(CYCLES):
            next(cycles)()
            sizes.append(resident_bytes())
        cycles.close()  # type: ignore[attr-defined]
    print(json.dumps([sizes[SETTLED - 1], sizes[-1], max(sizes)]))


def cycled(engine: str, way: str) -> Cycled:
    command = [sys.executable, __file__, "--cycle", engine, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    settled, end, highest = json.loads(done.stdout.splitlines()[-1])
    return Cycled(engine, way, CYCLES, settled, end, highest)


def large(seed: int) -> bytes:
    """``y = x @ w`` with weights of 100 MB."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(seed).random((LARGE_BYTES // 4000, 1000), np.float32)
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [make.make_tensor_value_info("x", kind, [1, len(weights)])],
        [make.make_tensor_value_info("y", kind, [1, 1000])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [make.make_opsetid("", 17)]
    return bytes(make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def crowd_here() -> None:
    import edge

    x = TensorSpec("x", "float32", (1, LARGE_BYTES // 4000))
    y = TensorSpec("y", "float32", (1, 1000))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(LARGE):
            bundle(f"m{number:02}", "onnxruntime", large(number), ((x,), (y,)), Path(folder))
        seen = Watch()
        with edge.Runtime(folder, memory=BUDGET) as runtime:
            crowd = ask(runtime, seen, {"x": np.ones((1, LARGE_BYTES // 4000), np.float32)})
    print(msgspec.json.encode(crowd).decode())


class Watch:
    """The highest resident memory so far."""

    def __init__(self) -> None:
        import onnxruntime  # its own size is no model's

        assert onnxruntime
        self.before = self.highest = resident_bytes()
        self._is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._is_over.wait(0.02):
            self.highest = max(self.highest, resident_bytes())


def ask(runtime: Any, seen: Watch, feeds: dict[str, Any]) -> Crowd:
    names, failures = runtime.names(), []
    waits: dict[bool, list[float]] = {False: [], True: []}
    weights = [1 / (1 + rank) for rank in range(len(names))]  # a few are asked often
    used: list[int] = []

    def one(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(REQUESTS):
            (name,) = choose.choices(names, weights)
            is_cold = runtime.status_of(name).state != "ready"
            start = time.perf_counter()
            try:
                runtime.infer(name, feeds)
            except Exception as error:
                failures.append(error)
            waits[is_cold].append(time.perf_counter() - start)
            used.append(runtime.memory.used_bytes)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = runtime.status()
    for error in failures[:3]:
        print(repr(error), file=sys.stderr)
    measured = [s.memory.resident_bytes for s in statuses if s.memory and s.memory.is_measured]
    return Crowd(
        requests=THREADS * REQUESTS,
        failed=len(failures),
        loads=sum(status.loads for status in statuses),
        evictions=sum(sum(status.evictions.values()) for status in statuses),
        model_bytes=int(np.median(measured)),
        used_bytes=max(used),
        before_bytes=seen.before,
        highest_bytes=seen.highest,
        hot_ms=1e3 * float(np.median(waits[False])),
        cold_ms=1e3 * float(np.median(waits[True])),
    )


def crowd() -> Crowd:
    command = [sys.executable, __file__, "--crowd"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Crowd)


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        "# Memory over many loads, and many models in little of it",
        "",
        f"On {result.machine}; {versions}.",
        "Made by `python benchmarks/residency.py`; the figures are in `residency.json`.",
        "",
        f"{CYCLES:,} cycles over {', '.join(CYCLED)}: load, run once, unload; resident memory of",
        f"the process in MiB. To reach: at most 5 % more at the end than after the {SETTLED}th.",
        "",
        f"| engine | loaded by | after {SETTLED} | after {CYCLES:,} | highest | growth |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.engine} | {row.way} | {row.settled_bytes / MIB:.0f} | {row.end_bytes / MIB:.0f} "
        f"| {row.highest_bytes / MIB:.0f} | {100 * row.growth:+.1f} % |"
        for row in result.cycles
    ]
    one = result.crowd
    lines += [
        "",
        f"{LARGE} models of {LARGE_BYTES // 10**6} MB of weights, a budget of "
        f"{BUDGET // MIB:,} MiB, {THREADS} threads, random requests:",
        "",
        "| | |",
        "|---|---:|",
        f"| requests, of which failed | {one.requests}, {one.failed} |",
        f"| loads, evictions | {one.loads}, {one.evictions} |",
        f"| one model, as measured at its first load | {one.model_bytes / MIB:.0f} MiB |",
        f"| most that models were accounted with | {one.used_bytes / MIB:.0f} MiB |",
        f"| resident memory of the process before | {one.before_bytes / MIB:.0f} MiB |",
        f"| highest, less that | {(one.highest_bytes - one.before_bytes) / MIB:.0f} MiB |",
        f"| median request to a loaded model | {one.hot_ms:.1f} ms |",
        f"| median request that had to wait for its model | {one.cold_ms:.0f} ms |",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    if sys.argv[1:2] == ["--cycle"]:
        cycle_here(*sys.argv[2:])
        return 0
    if sys.argv[1:] == ["--crowd"]:
        crowd_here()
        return 0
    if not MODELS.is_dir():
        sys.exit("needs the measurement data beside the checkout (../shared/data)")
    from edge.core import plugins

    engines = ("onnxruntime", "openvino")
    versions = {name: plugins.backend(name).availability().version for name in engines}
    cycles = tuple(cycled(engine, way) for engine in engines for way in WAYS)
    result = Result(machine(), versions, cycles, crowd())
    table = markdown(result)
    print(table)
    (RESULTS / "residency.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "residency.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

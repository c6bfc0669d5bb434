"""What `Model.infer` adds to the engine's own call, on a model of about 1 ms and on a tiny one.

    python benchmarks/infer_overhead.py

The raw call uses the very session that the model holds, so that our code is the only difference.
Calls alternate one by one, in either order; a round gives the ratio and the difference of its
medians, and the table the median of the rounds with the lowest and the highest. One thread.
OpenVINO's raw call is `InferRequest.infer(feeds)`, which copies inputs and outputs; `shared` is the
same with `share_inputs` and `share_outputs`, whose outputs the next call overwrites.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

import edge
from edge.bundle import pack
from edge.core.machine import machine
from edge.core.manifest import FileEntry, Manifest, Variant
from edge.core.tensor import TensorSpec

RESULTS = Path(__file__).parent / "results"
ROUNDS = 9
PAIRS = {"tiny": 4000, "1 ms": 600}
WARM_UP_PAIRS = 50
ENGINES = {"onnxruntime": {}, "openvino": {"INFERENCE_PRECISION_HINT": "f32"}}
TARGET_RATIO, TARGET_US = 1.02, 20.0

Call = Callable[[], object]


class Row(msgspec.Struct, frozen=True):
    """Microseconds, and ratios of ours to raw: median, lowest and highest of the rounds."""

    engine: str
    raw_call: str
    model: str
    raw_us: float
    ours_us: float
    added_us: tuple[float, float, float]
    ratio: tuple[float, float, float]


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    rounds: int
    pairs_per_round: dict[str, int]
    rows: tuple[Row, ...]


def network(channels: tuple[int, ...], side: int) -> bytes:
    """Convolutions of stride 2 over a picture, then the mean of each channel."""
    make, nodes, weights, name = onnx.helper, [], [], "x"
    noise = np.random.default_rng(0)
    for layer, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
        weight = noise.standard_normal((after, before, 3, 3)).astype(np.float32) / before
        weights.append(onnx.numpy_helper.from_array(weight, f"w{layer}"))
        conv = make.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], strides=[2, 2])
        nodes += [conv, make.make_node("Relu", [f"c{layer}"], [f"r{layer}"])]
        name = f"r{layer}"
    nodes.append(make.make_node("GlobalAveragePool", [name], ["y"]))
    io = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, side, side]), ("y", [1, channels[-1], 1, 1]))
    ]
    graph = make.make_graph(nodes, "network", io[:1], io[1:], weights)
    opsets = [make.make_opsetid("", 17)]
    return bytes(make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


NETWORKS = {"tiny": ((4,), 8), "1 ms": ((32, 48, 64), 224)}


def bundle(name: str, folder: Path) -> Path:
    """One model for both engines; OpenVINO reads the ONNX file as it is."""
    channels, side = NETWORKS[name]
    data = network(channels, side)
    parts = folder / name
    variants = []
    for engine, options in ENGINES.items():
        place = parts / "variants" / engine
        place.mkdir(parents=True)
        (place / "model.onnx").write_bytes(data)
        variant = Variant(
            id=engine,
            engine=engine,
            precision="fp32",
            files=(FileEntry("model.onnx", hashlib.sha256(data).hexdigest(), len(data)),),
            inputs=(TensorSpec("x", "float32", (1, 3, side, side)),),
            outputs=(TensorSpec("y", "float32", (1, channels[-1], 1, 1)),),
            options={"threads": 1, **options},
        )
        variants.append(variant)
    manifest = Manifest(
        schema=1,
        name=name.replace(" ", "-"),
        version="1",
        task="tensors",
        profile="host",
        source_sha256="0" * 64,
        variants=tuple(variants),
    )
    return pack(manifest, parts, folder / f"{manifest.name}.edge")


def raw_calls(model: edge.Model, feeds: dict[str, Any]) -> dict[str, Call]:
    """The engine's own calls on the session that ``model`` holds."""
    session: Any = model.opened.session
    if model.variant.engine == "onnxruntime":
        run = session._session.run
        return {"InferenceSession.run": lambda: run(None, feeds)}
    request = session._compiled.create_infer_request()
    return {
        "InferRequest.infer": lambda: request.infer(feeds),
        "InferRequest.infer, shared": lambda: request.infer(
            feeds, share_inputs=True, share_outputs=True
        ),
    }


def one_round(raw: Call, ours: Call, pairs: int) -> tuple[float, float]:
    """Medians of both, in microseconds."""
    clock = time.perf_counter_ns
    times: tuple[list[int], list[int]] = ([], [])
    calls = ((raw, times[0]), (ours, times[1]))
    for number in range(WARM_UP_PAIRS + pairs):
        for call, into in calls if number % 2 else calls[::-1]:
            start = clock()
            call()
            into.append(clock() - start)
    raw_us, ours_us = (statistics.median(spent[WARM_UP_PAIRS:]) / 1e3 for spent in times)
    return raw_us, ours_us


def compare(model: edge.Model, name: str) -> list[Row]:
    feeds = {"x": np.random.default_rng(1).random(model.inputs[0].shape, np.float32)}
    rows = []
    for title, raw in raw_calls(model, feeds).items():
        rounds = [one_round(raw, lambda: model.infer(feeds), PAIRS[name]) for _ in range(ROUNDS)]
        row = Row(
            engine=model.variant.engine,
            raw_call=title,
            model=name,
            raw_us=round(statistics.median(raw_us for raw_us, _ in rounds), 1),
            ours_us=round(statistics.median(ours_us for _, ours_us in rounds), 1),
            added_us=spread([ours_us - raw_us for raw_us, ours_us in rounds], 1),
            ratio=spread([ours_us / raw_us for raw_us, ours_us in rounds], 3),
        )
        rows.append(row)
    return rows


def spread(values: list[float], digits: int) -> tuple[float, float, float]:
    middle, low, high = statistics.median(values), min(values), max(values)
    return round(middle, digits), round(low, digits), round(high, digits)


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        "# What Model.infer adds to the engine's own call",
        "",
        f"On {result.machine}; {versions}.",
        "Made by `python benchmarks/infer_overhead.py`; the figures are in `infer_overhead.json`.",
        "",
        f"Medians of {result.rounds} rounds, with the lowest and the highest; calls alternate",
        "one by one, on one session of one thread. To reach on the model of about 1 ms: a ratio",
        f"of at most {TARGET_RATIO}; on any: at most {TARGET_US:g} µs. OpenVINO's plain `infer`",
        "copies its input and ours does not; `shared` copies nothing, but the next call overwrites",
        "what it returned, while ours is the caller's.",
        "",
        "| engine | raw call | model | raw, µs | ours, µs | added, µs | ours / raw |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in result.rows:
        added = "{:.1f} ({:.1f} … {:.1f})".format(*row.added_us)
        ratio = "{:.3f} ({:.3f} … {:.3f})".format(*row.ratio)
        lines.append(
            f"| {row.engine} | `{row.raw_call}` | {row.model} | {row.raw_us:.1f} "
            f"| {row.ours_us:.1f} | {added} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            path = bundle(name, Path(folder))
            for engine in ENGINES:
                with edge.load(path, engine=engine, fallback="deny") as model:
                    rows += compare(model, name)
    from edge.core import plugins

    versions = {name: plugins.backend(name).availability().version for name in ENGINES}
    result = Result(machine(), {**versions, "numpy": np.__version__}, ROUNDS, PAIRS, tuple(rows))
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "infer_overhead.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "infer_overhead.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

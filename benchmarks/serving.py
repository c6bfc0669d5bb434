"""Serving a real classifier: ours beside MLServer, LitServe, Triton's Python backend and FastAPI.

    python benchmarks/serving.py --bundles DIR --venvs DIR [--data DIR] [--rounds N] [--block S]

`DIR/<model>.edge` are what `edge convert DATA/models/<model>.onnx --profile host --precision int8
--spec benchmarks/specs/<model>.toml --calib … --eval … --max-drop 0.5` made. The peers live in
virtual environments of their own, made once from the interpreter of ours:

    for peer in fastapi litserve mlserver triton; do python -m venv DIR/$peer; done
    DIR/fastapi/bin/pip install fastapi 'uvicorn[standard]' onnxruntime numpy
    DIR/litserve/bin/pip install litserve onnxruntime numpy
    DIR/mlserver/bin/pip install mlserver onnxruntime
    DIR/triton/bin/pip install nvidia-pytriton onnxruntime    # brings a tritonserver

All run ONNX Runtime on one thread, with the same file at FP32 and with the same INT8 file, taken
out of the bundle; `edge on OpenVINO` is its other INT8 variant, on one thread as well. Servers
batch up to 8 requests and wait for company for up to 1 ms, except where the row says otherwise. All
are up at the same time and take turns, in an order that changes from round to round; every answer
must have the right top-1. The load is a closed loop of 1, 8 or 32 connections in one thread. CPU is
that of the server's whole process tree while it is asked, over the number of answers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import http_load
import msgspec
import numpy as np
import onnxruntime
import serving_contenders as contenders
import serving_table
from http_server import free_port, running
from serving_contenders import MODEL, OURS, Contender
from serving_table import CACHED, OPENVINO, Line, Result, Spread

import edge
from edge.bundle import Bundle, open_bundle, pack
from edge.core.machine import machine
from edge.core.manifest import Variant
from edge.core.spec import load_spec
from edge.vision import ImagePipeline

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MODELS = {"squeezenet1.1": "imagenet-1k-sample", "mobilenetv2_caltech101": "caltech101"}
CONCURRENCY = (1, 8, 32)
IMAGES = 16
MARGIN = 0.1
WARM_UP_S = 0.7


class Workload(NamedTuple):
    """Pictures as tensors, and the class that every contender has to find."""

    input: str
    images: list[Any]
    right: list[int]


class Server(NamedTuple):
    contender: Contender
    process: subprocess.Popen[bytes]
    port: int
    requests: list[bytes]


class Block(NamedTuple):
    """One contender at one concurrency in one round."""

    cpu_ms: float
    per_s: float
    latencies_ms: list[float]


def single(bundle: Bundle, variant: Variant, files: Path, folder: Path) -> Path:
    """A bundle of one variant, on one thread, under the name that all contenders serve."""
    parts = folder / variant.id
    shutil.copytree(files, parts / "variants" / variant.id)
    alone = msgspec.structs.replace(variant, options={**variant.options, "threads": 1})
    manifest = msgspec.structs.replace(
        bundle.manifest, name=MODEL, variants=(alone,), goldens=(), files=(), labels=""
    )
    return pack(manifest, parts, folder / f"{variant.id}.edge")


def line_up(source: Path, bundle: Path, folder: Path) -> list[Contender]:
    with open_bundle(bundle) as opened:
        by_engine = {v.engine: v for v in opened.manifest.variants if v.precision == "int8"}
        int8, other = by_engine["onnxruntime"], by_engine["openvino"]
        int8_file = opened.extract_variant(int8.id) / "model.onnx"
        plain = folder / "source"
        plain.mkdir()
        shutil.copy(source, plain / "model.onnx")
        fp32 = msgspec.structs.replace(int8, id="fp32", precision="fp32", files=(), options={})
        ours = [
            ("edge", "fp32", single(opened, fp32, plain, folder)),
            ("edge", "int8", single(opened, int8, int8_file.parent, folder)),
            (OPENVINO, "int8", single(opened, other, opened.extract_variant(other.id), folder)),
        ]
    rows = [
        Contender("FastAPI, JSON", "fastapi", source, "fp32", "/json", batching=False),
        Contender("FastAPI, raw bytes", "fastapi", source, "fp32", "/binary", batching=False),
    ]
    for precision, file in (("fp32", source), ("int8", int8_file)):
        rows += [
            Contender("MLServer", "mlserver", file, precision),
            Contender("LitServe", "litserve", file, precision),
            Contender("Triton, Python", "triton", file, precision),
        ]
    for title, precision, made in ours:
        rows += [
            Contender(f"{title}, one by one", OURS, made, precision, batching=False),
            Contender(title, OURS, made, precision),
        ]
    return [*rows, Contender(CACHED, OURS, ours[1][2], "int8", cache=True)]


def workload(source: Path, name: str, pictures: Path, files: list[Contender]) -> Workload:
    """Pictures on which all precisions agree, with some room."""
    spec = load_spec(HERE / "specs" / f"{name}.toml").image
    assert spec is not None
    pipeline = ImagePipeline(spec)
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    ours = [edge.load(c.file) for c in files if c.is_ours and not c.batching]
    images, right = [], []
    for path in sorted(pictures.rglob("*.[jJ][pP]*[gG]")):
        image = pipeline.prepare(path)[0]
        scores = session.run(None, {spec.input: image})[0][0]
        shares = np.exp(scores - scores.max())
        first, second = np.sort(shares / shares.sum())[[-1, -2]]
        best = int(scores.argmax())
        if first - second > MARGIN and all(_best(model, image) == best for model in ours):
            images.append(image)
            right.append(best)
        if len(images) == IMAGES:
            break
    for model in ours:
        model.close()
    return Workload(spec.input, images, right)


def _best(model: edge.Model, image: Any) -> int:
    (scores,) = model.infer({model.inputs[0].name: image}).values()
    return int(scores.argmax())


def cpu_s(pid: int) -> float:
    """CPU time of a process with all its threads, also those that ended, and of its children."""
    total = 0.0
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(cpu_s(int(child)) for child in (task / "children").read_text().split())
    return total


def measure(server: Server, right: list[int], clients: int, seconds: float) -> Block:
    before = cpu_s(server.process.pid)
    answers, spent_s = http_load.load(server.port, server.requests, clients, seconds)
    cpu_ms = (cpu_s(server.process.pid) - before) * 1e3 / len(answers)
    for number, _, answer in answers:
        if contenders.top1(server.contender, answer) != right[number]:
            raise RuntimeError(f"{server.contender.title}: a wrong answer to picture {number}")
    latencies_ms = [latency_s * 1e3 for _, latency_s, _ in answers]
    return Block(cpu_ms, len(answers) / spent_s, latencies_ms)


def start_all(
    rows: list[Contender], work: Workload, venvs: Path, stack: contextlib.ExitStack
) -> list[Server]:
    servers = []
    for contender in rows:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        python = str(venvs / contender.kind / "bin/python")
        command, ready = contenders.start(contender, python, folder, port)
        url = f"http://127.0.0.1:{port}{ready}"
        process = stack.enter_context(running(command, url, folder))
        requests = [contenders.request(contender, image, work.input) for image in work.images]
        servers.append(Server(contender, process, port, requests))
        print(f"{contender.title} {contender.precision}", file=sys.stderr)
    return servers


def compare(
    name: str, servers: list[Server], right: list[int], rounds: int, seconds: float
) -> list[Line]:
    blocks: dict[tuple[int, int], list[Block]] = {}
    for server in servers:
        http_load.load(server.port, server.requests, 8, WARM_UP_S)
    shuffle = random.Random(0).shuffle
    for number in range(rounds):
        for clients in CONCURRENCY:
            order = list(enumerate(servers))
            shuffle(order)
            print(f"{name}: round {number + 1} of {rounds}, {clients} clients", file=sys.stderr)
            for index, server in order:
                time.sleep(0.02)
                block = measure(server, right, clients, seconds)
                blocks.setdefault((index, clients), []).append(block)
    return [
        _line(name, servers[index].contender, clients, those)
        for (index, clients), those in sorted(blocks.items())
    ]


def _line(name: str, contender: Contender, clients: int, blocks: list[Block]) -> Line:
    latencies = [np.percentile(block.latencies_ms, [50, 99]) for block in blocks]
    return Line(
        model=name,
        server=contender.title,
        precision=contender.precision,
        is_ours=contender.is_ours,
        concurrency=clients,
        answers=sum(len(block.latencies_ms) for block in blocks),
        per_s=Spread.of([block.per_s for block in blocks]),
        p50_ms=Spread.of([float(p50) for p50, _ in latencies]),
        p99_ms=Spread.of([float(p99) for _, p99 in latencies]),
        cpu_ms=Spread.of([block.cpu_ms for block in blocks]),
    )


def versions(venvs: Path) -> dict[str, str]:
    ask = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    packages = {"fastapi": "fastapi", "litserve": "litserve", "mlserver": "mlserver"}
    found = {"onnxruntime": onnxruntime.__version__}
    for venv, package in {**packages, "triton": "nvidia-pytriton"}.items():
        command = [str(venvs / venv / "bin/python"), "-c", ask, package]
        found[package] = subprocess.check_output(command, text=True).strip()
    return found


def run_model(name: str, args: argparse.Namespace) -> list[Line]:
    source = args.data / "models" / f"{name}.onnx"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = line_up(source, args.bundles / f"{name}.edge", folder)
        work = workload(source, name, args.data / MODELS[name], rows)
        servers = start_all(rows, work, args.venvs, stack)
        return compare(name, servers, work.right, args.rounds, args.block)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--venvs", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=float, default=1.2, help="seconds per server and round")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--note", default="", help="what a reader of the table should know")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if not (args.data / "models").is_dir():
        print(f"skipped: no models in {args.data}", file=sys.stderr)
        return 0
    lines = [line for name in args.only for line in run_model(name, args)]
    result = Result(
        machine(), versions(args.venvs), args.rounds, args.block, tuple(lines), args.note
    )
    table = serving_table.markdown(result)
    print(table)
    (args.output / "serving.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (args.output / "serving.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

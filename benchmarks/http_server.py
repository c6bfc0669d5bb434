"""What one request costs a server: ours, and others with the same models that compute nothing.

    python benchmarks/http_server.py [--starlette PYTHON] [--mlserver PYTHON] [--litserve PYTHON]

Each option names an interpreter that has the peer (uvicorn with Starlette, MLServer, LitServe);
those not given are left out. One client sends binary KServe requests over one connection, one
after the other; servers take turns within a round. CPU is that of all the server's processes.
Then: how long `edge serve` takes from its start until it is ready with the digits model, and how
much memory it holds beyond that of a bare interpreter with the same model in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from edge.bundle import pack
from edge.core.manifest import Manifest, Variant
from edge.core.tensor import TensorSpec

HERE = Path(__file__).parent
PEERS = HERE / "http_peers"
DIGITS = HERE.parent / "examples/digits/digits.onnx"
OURS = "edge serve"
MODELS = {"noop-64b": ((1, 16), (1, 16)), "noop-602kb": ((1, 3, 224, 224), (1, 1000))}
REQUESTS = {"noop-64b": 1500, "noop-602kb": 400}
WARM_UP = 200
ROUNDS = 5
STARTS = 7
READY_S = 60.0
BARE = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: numpy.zeros((1, 1, 8, 8), numpy.float32)})
print("ready", flush=True)
sys.stdin.read()
"""


class Spread(msgspec.Struct, frozen=True):
    """Median of the rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(*(round(v, 3) for v in (statistics.median(values), min(values), max(values))))

    def __str__(self) -> str:
        return f"{self.median:.0f} ({self.low:.0f}–{self.high:.0f})"


class Cost(msgspec.Struct, frozen=True):
    """Of one server and model, in µs; ``ratio`` is its CPU over ours."""

    server: str
    model: str
    cpu_us: Spread
    p50_us: Spread
    p99_us: Spread
    ratio: float = 1.0


class Start(msgspec.Struct, frozen=True):
    """Of `edge serve` with the digits model in ONNX Runtime, in ms and MB (1e6 bytes)."""

    ready_ms: Spread
    rss_mb: Spread
    bare_rss_mb: Spread
    above_mb: Spread


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    rounds: int
    requests: dict[str, int]
    costs: list[Cost]
    start: Start


class Server:
    """A running server and how to ask it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        self.name = name
        self.process = process
        self.port = port

    def request(self, model: str) -> bytes:
        shape = MODELS[model][0]
        raw = np.zeros(shape, np.float32).tobytes()
        if self.name == "LitServe":
            data = base64.b64encode(raw).decode()
            text = json.dumps({"model": model, "shape": shape, "data": data}).encode()
            return _post("/predict", "application/json", "", text)
        if self.name == "MLServer":
            data = [base64.b64encode(raw).decode()]
            given = {"name": "x", "shape": [1], "datatype": "BYTES", "data": data}
            text = json.dumps({"inputs": [given | {"parameters": {"content_type": "base64"}}]})
            return _post(f"/v2/models/{model}/infer", "application/json", "", text.encode())
        tensor = {"name": "x", "shape": shape, "datatype": "FP32"}
        asked = {
            "inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(asked).encode()
        length = f"Inference-Header-Content-Length: {len(text)}\r\n"
        kind = "application/octet-stream"
        return _post(f"/v2/models/{model}/infer", kind, length, text + raw)


def _post(path: str, kind: str, headers: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{head}{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """A bare socket, so that the client's own work hides nothing of the server's latency."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            raise RuntimeError(f"not the answer that was expected: {answer!r}")
        while len(body) < int(length[1]):
            body += self._receive()
        return body

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 20)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


def cpu_ns(pid: int) -> int:
    """CPU time of a process, its threads and its children."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
            children = (task / "children").read_text().split()
            total += sum(cpu_ns(int(child)) for child in children)
    return total


def measure(server: Server, model: str) -> tuple[float, float, float]:
    """CPU per request, p50 and p99, in µs."""
    client, request, count = Client(server), server.request(model), REQUESTS[model]
    for _ in range(WARM_UP):
        client.ask(request)
    latencies = []
    before = cpu_ns(server.process.pid)
    for _ in range(count):
        start = time.perf_counter()
        client.ask(request)
        latencies.append((time.perf_counter() - start) * 1e6)
    spent = cpu_ns(server.process.pid) - before
    client.close()
    p50, p99 = np.percentile(latencies, [50, 99])
    return spent / count / 1e3, float(p50), float(p99)


def compare(servers: list[Server]) -> list[Cost]:
    rounds: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for number in range(ROUNDS):
        for model in MODELS:
            for server in servers:
                print(f"\rround {number + 1} of {ROUNDS}: {model} {server.name:20}", end="")
                rounds.setdefault((server.name, model), []).append(measure(server, model))
    print()
    costs = []
    for (name, model), values in rounds.items():
        cpu, p50, p99 = (Spread.of(list(column)) for column in zip(*values, strict=True))
        ours = statistics.median(value[0] for value in rounds[OURS, model])
        costs.append(Cost(name, model, cpu, p50, p99, round(cpu.median / ours, 2)))
    return sorted(costs, key=lambda cost: (cost.model != "noop-64b", cost.cpu_us.median))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def running(command: list[str], url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server from its start until ``url`` answers 200, and ended afterwards."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env=_environment(),
            start_new_session=True,  # LitServe's workers outlive their parent
        )
        try:
            deadline = time.monotonic() + READY_S
            while not is_ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "server.log").read_text())
                time.sleep(0.005)
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment() -> dict[str, str]:
    paths = [str(PEERS), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def noop_bundles(folder: Path) -> list[Path]:
    """Bundles for the engine that computes nothing."""
    parts = folder / "parts"
    parts.mkdir()
    return [
        pack(
            _manifest(
                name,
                Variant(
                    id="null",
                    engine="null",
                    precision="fp32",
                    files=(),
                    inputs=(TensorSpec("x", "float32", given),),
                    outputs=(TensorSpec("y", "float32", answered),),
                ),
            ),
            parts,
            folder / f"{name}.edge",
        )
        for name, (given, answered) in MODELS.items()
    ]


def _manifest(name: str, variant: Variant, source: bytes = b"") -> Manifest:
    return Manifest(
        schema=1,
        name=name,
        version="1",
        task="tensors",
        profile="host",
        source_sha256=hashlib.sha256(source).hexdigest(),
        variants=(variant,),
    )


def digits_bundle(folder: Path) -> Path:
    place = folder / "digits/variants/onnxruntime-fp32"
    place.mkdir(parents=True)
    source = DIGITS.read_bytes()
    (place / "model.onnx").write_bytes(source)
    variant = Variant(
        id="onnxruntime-fp32",
        engine="onnxruntime",
        precision="fp32",
        files=(),
        inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
    )
    return pack(_manifest("digits", variant, source), folder / "digits", folder / "digits.edge")


def start_edge(folder: Path, port: int) -> tuple[list[str], str]:
    bundles = [str(path) for path in noop_bundles(folder)]
    command = [sys.executable, "-m", "edge", "serve", *bundles, "--http", f"127.0.0.1:{port}"]
    return command, "/v2/health/ready"


def start_starlette(python: str, folder: Path, port: int) -> tuple[list[str], str]:
    options = ["--port", str(port), "--log-level", "error", "--no-access-log"]
    return [python, "-m", "uvicorn", "starlette_app:app", *options], "/v2/health/ready"


def start_mlserver(python: str, folder: Path, port: int) -> tuple[list[str], str]:
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    for name in MODELS:
        (folder / name).mkdir()
        model = {"name": name, "implementation": "mlserver_noop.Noop"}
        (folder / name / "model-settings.json").write_text(json.dumps(model))
    run = "import sys; sys.argv = ['mlserver', 'start', '.']; from mlserver.cli import main; main()"
    return [python, "-c", run], "/v2/health/ready"


def start_litserve(python: str, folder: Path, port: int) -> tuple[list[str], str]:
    return [python, str(PEERS / "litserve_app.py"), str(port)], "/health"


Command = Callable[[Path, int], tuple[list[str], str]]
Starter = Callable[[str, Path, int], tuple[list[str], str]]
STARTERS: dict[str, tuple[str, Starter]] = {
    "starlette": ("uvicorn + Starlette", start_starlette),
    "mlserver": ("MLServer", start_mlserver),
    "litserve": ("LitServe", start_litserve),
}


def measure_costs(peers: dict[str, str]) -> list[Cost]:
    """Start every server once; they take turns."""
    with contextlib.ExitStack() as stack:
        servers = []
        starts: list[tuple[str, Callable[[Path, int], tuple[list[str], str]]]] = [
            (OURS, start_edge)
        ]
        for key, python in peers.items():
            name, starter = STARTERS[key]
            starts.append((name, functools.partial(starter, python)))
        for name, start in starts:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = free_port()
            command, path = start(folder, port)
            url = f"http://127.0.0.1:{port}{path}"
            process = stack.enter_context(running(command, url, folder))
            servers.append(Server(name, process, port))
        return compare(servers)


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = re.search(r"VmRSS:\s+(\d+)", status)
    return int(kib[1]) * 1024 / 1e6 if kib else 0.0


def bare_rss_mb() -> float:
    """Memory of a bare interpreter that has run the digits model once."""
    process = subprocess.Popen(
        [sys.executable, "-c", BARE, str(DIGITS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    rss = rss_mb(process.pid)
    process.communicate()
    return rss


def start_once(folder: Path, bundle: Path) -> tuple[float, float]:
    """Milliseconds from the start of the process until it is ready; memory after one request."""
    port = free_port()
    command = [sys.executable, "-m", "edge", "serve", str(bundle), "--http", f"127.0.0.1:{port}"]
    begin = time.perf_counter()
    with running(command, f"http://127.0.0.1:{port}/v2/health/ready", folder) as process:
        ready_ms = (time.perf_counter() - begin) * 1e3
        tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0] * 64}
        text = json.dumps({"inputs": [tensor]}).encode()
        client = Client(Server(OURS, process, port))
        client.ask(_post("/v2/models/digits/infer", "application/json", "", text))
        client.close()
        return ready_ms, rss_mb(process.pid)


def measure_start() -> Start:
    ready, rss, bare = [], [], []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        bundle = digits_bundle(folder)
        start_once(folder, bundle)
        for number in range(STARTS):
            print(f"\rstart {number + 1} of {STARTS}", end="")
            ready_ms, served = start_once(folder, bundle)
            ready.append(ready_ms)
            rss.append(served)
            bare.append(bare_rss_mb())
    print()
    above = [a - b for a, b in zip(rss, bare, strict=True)]
    return Start(Spread.of(ready), Spread.of(rss), Spread.of(bare), Spread.of(above))


def versions(peers: dict[str, str]) -> dict[str, str]:
    packages = {
        sys.executable: ("uvloop", "httptools", "msgspec", "numpy", "onnxruntime"),
        peers.get("starlette"): ("uvicorn", "starlette"),
        peers.get("mlserver"): ("mlserver",),
        peers.get("litserve"): ("litserve",),
    }
    ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = {"python": platform.python_version()}
    for python, names in packages.items():
        if python:
            answer = subprocess.check_output([python, "-c", ask, *names], text=True)
            found |= dict(zip(names, answer.split(), strict=True))
    return found


def table(result: Result) -> str:
    lines = [
        "| model | server | CPU per request, µs | × ours | p50, µs | p99, µs |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {cost.model} | {cost.server} | {cost.cpu_us} | {cost.ratio:.2f} | {cost.p50_us} "
        f"| {cost.p99_us} |"
        for cost in result.costs
    ]
    start = result.start
    named = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return "\n".join(
        [
            "# What a request costs a server",
            "",
            *lines,
            "",
            f"Median of {result.rounds} alternating rounds (lowest–highest), each of "
            + " and ".join(f"{count} requests of {name}" for name, count in result.requests.items())
            + f" after {WARM_UP} to warm up; one client, one connection, one request at a time. "
            "CPU is that of all processes of the server. The models compute nothing: "
            "one float32 input of [1, 16] or [1, 3, 224, 224], zeros come back. MLServer's REST "
            "takes no binary tensors, LitServe takes JSON or forms: both get base64 in JSON; the "
            "others get KServe's binary tensors.",
            "",
            f"`edge serve` with the digits model in ONNX Runtime, {STARTS} starts: ready "
            f"{start.ready_ms} ms after the process starts; resident memory {start.rss_mb} MB, of "
            f"a bare interpreter with numpy and the same session {start.bare_rss_mb} MB, "
            f"so {start.above_mb} MB above it.",
            "",
            f"{result.machine}; {named}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for key, (name, _) in STARTERS.items():
        parser.add_argument(f"--{key}", metavar="PYTHON", help=f"an interpreter that has {name}")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="DIR")
    args = parser.parse_args()
    peers = {key: getattr(args, key) for key in STARTERS if getattr(args, key)}
    result = Result(
        machine=f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        versions=versions(peers),
        rounds=ROUNDS,
        requests=REQUESTS,
        costs=measure_costs(peers),
        start=measure_start(),
    )
    args.output.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    (args.output / "http_server.json").write_bytes(text + b"\n")
    (args.output / "http_server.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()

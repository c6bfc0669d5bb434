"""A running `edge serve` with models whose answers are known, and a bare HTTP client."""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from patience import LONG_S

from edge.bundle import pack
from edge.core.manifest import Manifest, Variant
from edge.core.tensor import TensorSpec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ELEMENT_TYPES = {
    "bool": onnx.TensorProto.BOOL,
    "int8": onnx.TensorProto.INT8,
    "int16": onnx.TensorProto.INT16,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "uint8": onnx.TensorProto.UINT8,
    "uint16": onnx.TensorProto.UINT16,
    "uint32": onnx.TensorProto.UINT32,
    "uint64": onnx.TensorProto.UINT64,
    "float16": onnx.TensorProto.FLOAT16,
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
    "string": onnx.TensorProto.STRING,
}
OPSET, IR = 17, 8
MAX_BODY_BYTES = 1_000_000


class Answer(NamedTuple):
    """An HTTP response; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> str:
        """The message, which every answer but 200 must have in this form."""
        assert self.status != 200
        assert self.headers["content-type"] == "application/json"
        message = self.json["error"]
        assert isinstance(message, str)
        assert message
        return message


class Connection:
    """A bare socket: sends what no well-behaved client would."""

    def __init__(self, address: tuple[str, int], timeout_s: float = LONG_S) -> None:
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self._received = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, *, has_body: bool = True) -> Answer:
        """The next response; raises ``ConnectionError`` when there is none."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        length = int(headers.get("content-length", 0)) if has_body else 0
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(first.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Whether the server has ended the connection; waits for it to do something."""
        try:
            return not self._received and self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError(f"closed after {self._received!r}")
        self._received += data

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Live:
    """A running `edge serve`; ``lines`` is what it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.address = ("", 0)
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        self._is_ready.wait(LONG_S)
        if not self.address[1]:
            self.process.kill()
            raise RuntimeError(f"it did not start: {self.output()}")

    def output(self) -> str:
        """All it printed, once it has ended."""
        self.process.wait(LONG_S)
        self._reader.join(LONG_S)
        return "".join(self.lines)

    @property
    def netloc(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def connect(self) -> Connection:
        return Connection(self.address)

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """One request over a connection of its own."""
        fields = {"Host": "test", "Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        with self.connect() as connection:
            connection.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            return connection.answer(has_body=method != "HEAD")

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def infer(self, model: str, request: object, headers: dict[str, str] | None = None) -> Answer:
        body = request if isinstance(request, bytes) else msgspec.json.encode(request)
        return self.request("POST", f"/v2/models/{model}/infer", body, headers)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"http://([\w.]+):(\d+)", line)
            if found:
                self.address = (found[1], int(found[2]))
                self._is_ready.set()
        self._is_ready.set()


Start = Callable[..., Live]


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Start `edge serve` with arguments; all that still run at the end are killed.

    ``program`` is what stands for it, in Python.
    """
    started: list[Live] = []

    def begin(
        *arguments: object, cwd: Path, env: dict[str, str] | None = None, program: str = ""
    ) -> Live:
        serve = ["-c", program] if program else ["-m", "edge", "serve"]
        command = [sys.executable, *serve, *map(str, arguments)]
        process = subprocess.Popen(
            [*command, "--http", "127.0.0.1:0"],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(Live(process))
        return started[-1]

    yield begin
    for live in started:
        live.process.kill()
        live.output()
        assert live.process.stdout is not None
        live.process.stdout.close()


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: Any = ()) -> bytes:
    body = onnx.helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(body, opset_imports=opsets, ir_version=IR)
    return bytes(model.SerializeToString())


def bundle(
    folder: Path,
    name: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    model: bytes | None,
) -> Path:
    """Pack ``model`` for ONNX Runtime; without one, for the engine that answers zeros."""
    engine = "null" if model is None else "onnxruntime"
    parts = folder / f"parts-{name}"
    place = parts / f"variants/{engine}"
    place.mkdir(parents=True)
    if model is not None:
        (place / "model.onnx").write_bytes(model)
    manifest = Manifest(
        schema=1,
        name=name,
        version="3",
        task="tensors",
        profile="host",
        source_sha256=hashlib.sha256(model or b"").hexdigest(),
        variants=(
            Variant(
                id=engine, engine=engine, precision="fp32", files=(), inputs=inputs, outputs=outputs
            ),
        ),
    )
    return pack(manifest, parts, folder / f"{name}.edge")


@pytest.fixture
def pack_null() -> Callable[..., Path]:
    """Pack a model that answers zeros, by its name."""

    def make(folder: Path, name: str, version: str = "1") -> Path:
        specs = [(TensorSpec(tensor, "float32", ("batch", 2)),) for tensor in "xy"]
        parts = folder / "parts"
        variant = Variant("null", "null", "fp32", (), *specs)
        manifest = Manifest(
            schema=1,
            name=name,
            version=version,
            task="tensors",
            profile="host",
            source_sha256="0" * 64,
            variants=(variant,),
        )
        parts.mkdir(exist_ok=True)
        return pack(manifest, parts, folder / f"{name}-{version}.edge")

    return make


def identity(folder: Path, dtype: str) -> Path:
    """``y`` is ``x``, of any number of rows of two."""
    element = ELEMENT_TYPES[dtype]
    x, y = (onnx.helper.make_tensor_value_info(name, element, ["n", 2]) for name in "xy")
    model = graph([onnx.helper.make_node("Identity", ["x"], ["y"])], [x], [y])
    specs = [(TensorSpec(name, dtype, ("n", 2)),) for name in "xy"]
    return bundle(folder, f"identity-{dtype}", *specs, model)


def add_sub(folder: Path) -> Path:
    """Triton's example ``simple``: sum and difference of two INT32 tensors of [1, 16]."""
    names = ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [1, 16]) for name in names
    ]
    nodes = [
        onnx.helper.make_node("Add", names[:2], names[2:3]),
        onnx.helper.make_node("Sub", names[:2], names[3:]),
    ]
    specs = tuple(TensorSpec(name, "int32", (1, 16)) for name in names)
    return bundle(folder, "simple", specs[:2], specs[2:], graph(nodes, infos[:2], infos[2:]))


@pytest.fixture(scope="session")
def row_sum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers each row of two with its sum, and takes about a millisecond over it."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    side, layers = 1024, 12
    nodes = [helper.make_node("MatMul", ["x", "spread"], ["t0"])]
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [f"t{layer}", "mean"], [f"t{layer + 1}"]))
    nodes.append(helper.make_node("ReduceMax", [f"t{layers}"], ["y"], axes=[1], keepdims=1))
    constants = [
        helper.make_tensor("spread", kind, [2, side], [1.0] * (2 * side)),
        helper.make_tensor("mean", kind, [side, side], [1 / side] * (side * side)),
    ]
    x, y = (helper.make_tensor_value_info(n, kind, ["n", w]) for n, w in (("x", 2), ("y", 1)))
    specs = [(TensorSpec(n, "float32", ("n", w)),) for n, w in (("x", 2), ("y", 1))]
    model = graph(nodes, [x], [y], constants)
    return bundle(tmp_path_factory.mktemp("row-sum"), "sum", *specs, model)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles."""
    folder = tmp_path_factory.mktemp("models")
    for dtype in ELEMENT_TYPES:
        identity(folder, dtype)
    add_sub(folder)
    specs = (TensorSpec("x", "float32", (1, 16)),), (TensorSpec("y", "float32", (1, 4)),)
    bundle(folder, "null", *specs, None)
    return folder


@pytest.fixture(scope="session")
def server(models: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Live:
    """One server for all tests: each must leave it able to serve the next."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "edge.toml").write_text(f"[serve]\nmax_body_bytes = {MAX_BODY_BYTES}\n")
    live = start(models, cwd=folder)
    live.wait_until_ready()
    return live

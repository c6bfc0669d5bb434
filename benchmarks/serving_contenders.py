"""The servers that `serving.py` compares: how each is started, asked and understood."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import http_load
import msgspec
import numpy as np
from http_server import PEERS, free_port

MAX_BATCH = 8
MAX_DELAY_US = 1000
MODEL = "classifier"
OURS = "edge"

Image = Any


class Contender(msgspec.Struct, frozen=True):
    """A row of the table. ``file`` is an ONNX file for peers, a bundle for ours."""

    title: str
    kind: str
    file: Path
    precision: str
    path: str = ""
    batching: bool = True
    cache: bool = False

    @property
    def is_ours(self) -> bool:
        return self.kind == OURS


def start(contender: Contender, python: str, folder: Path, port: int) -> tuple[list[str], str]:
    """What to run in ``folder``, where the settings are written, and where it says it is ready."""
    command, ready = STARTERS[contender.kind](contender, python, folder, port)
    variables = [f"{name}_NUM_THREADS=1" for name in ("OMP", "OPENBLAS", "MKL")]
    return ["env", f"MODEL={contender.file}", *variables, *command], ready


def _edge(contender: Contender, _: str, folder: Path, port: int) -> tuple[list[str], str]:
    lines = [f"[models.{MODEL}]"]
    if contender.batching:
        lines += [f"max_batch = {MAX_BATCH}", f"max_delay_us = {MAX_DELAY_US}"]
    if contender.cache:
        lines += ["cache_bytes = 16_000_000"]
    (folder / "edge.toml").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "edge", "serve", str(contender.file)]
    return [*command, "--http", f"127.0.0.1:{port}"], "/v2/health/ready"


def _fastapi(_: Contender, python: str, __: Path, port: int) -> tuple[list[str], str]:
    options = ["--port", str(port), "--log-level", "error", "--no-access-log"]
    return [python, "-m", "uvicorn", "fastapi_classifier:app", *options], "/health"


def _litserve(_: Contender, python: str, __: Path, port: int) -> tuple[list[str], str]:
    return [python, str(PEERS / "litserve_classifier.py"), str(port)], "/health"


def _mlserver(_: Contender, python: str, folder: Path, port: int) -> tuple[list[str], str]:
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": MODEL,
        "implementation": "mlserver_classifier.Runtime",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": MAX_DELAY_US / 1e6,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    run = "import sys; sys.argv = ['mlserver', 'start', '.']; from mlserver.cli import main; main()"
    return [python, "-c", run], "/v2/health/ready"


TRITON_CONFIG = f"""
name: "{MODEL}"
backend: "python"
max_batch_size: {MAX_BATCH}
input [{{name: "x" data_type: TYPE_FP32 dims: [3, 224, 224]}}]
output [{{name: "y" data_type: TYPE_FP32 dims: [-1]}}]
dynamic_batching {{ max_queue_delay_microseconds: {MAX_DELAY_US} }}
instance_group [{{kind: KIND_CPU count: 1}}]
"""


def _triton(_: Contender, python: str, folder: Path, port: int) -> tuple[list[str], str]:
    """The server that nvidia-pytriton brings, with its Python backend's stub put in place."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = Path(python).parent.parent / "lib" / name / "site-packages"
    server = site / "pytriton/tritonserver"
    backend = folder / "backends/python"
    shutil.copytree(server / "backends/python", backend)
    shutil.copy(server / "python_backend_stubs" / name[6:] / "triton_python_backend_stub", backend)
    place = folder / "repository" / MODEL / "1"
    place.mkdir(parents=True)
    paths = [str(PEERS), str(site)]  # the stub looks at no PYTHONPATH
    lines = [
        f"import sys; sys.path[:0] = {paths}",
        "from triton_classifier import TritonPythonModel",
    ]
    (place / "model.py").write_text("\n".join(lines) + "\n")
    (place.parent / "config.pbtxt").write_text(TRITON_CONFIG)
    libraries = f"{site / 'nvidia_pytriton.libs'}:{sys.base_prefix}/lib"
    options = {
        "model-repository": place.parent.parent,
        "backend-directory": backend.parent,
        "http-address": "127.0.0.1",
        "http-port": port,
        "allow-grpc": "false",
        "allow-metrics": "false",
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    binary = str(server / "bin/tritonserver")
    return ["env", f"LD_LIBRARY_PATH={libraries}", binary, *arguments], "/v2/health/ready"


Starter = Callable[[Contender, str, Path, int], tuple[list[str], str]]
STARTERS: dict[str, Starter] = {
    OURS: _edge,
    "fastapi": _fastapi,
    "litserve": _litserve,
    "mlserver": _mlserver,
    "triton": _triton,
}


def request(contender: Contender, image: Image, input_name: str) -> bytes:
    """Binary where the server knows it."""
    raw = image.tobytes()
    if contender.kind == "fastapi":
        if contender.path == "/binary":
            return http_load.post("/binary", raw, kind="application/octet-stream")
        return http_load.post("/json", json.dumps({"data": image.ravel().tolist()}).encode())
    if contender.kind == "litserve":
        data = {"data": base64.b64encode(raw).decode()}
        return http_load.post("/predict", json.dumps(data).encode())
    path = f"/v2/models/{MODEL}/infer"
    if contender.kind == "mlserver":
        tensor = {
            "name": "x",
            "shape": [1],
            "datatype": "BYTES",
            "data": [base64.b64encode(raw).decode()],
            "parameters": {"content_type": "base64"},
        }
        return http_load.post(path, json.dumps({"inputs": [tensor]}).encode())
    name = input_name if contender.is_ours else "x"
    tensor = {"name": name, "shape": image.shape, "datatype": "FP32"}
    asked = {
        "inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(asked).encode()
    length = f"Inference-Header-Content-Length: {len(text)}\r\n"
    return http_load.post(path, text + raw, kind="application/octet-stream", headers=length)


def top1(contender: Contender, answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    if contender.kind == "litserve":
        raw = base64.b64decode(json.loads(body)["data"])
    elif contender.kind == "mlserver":
        raw = base64.b64decode(json.loads(body)["outputs"][0]["data"][0])
    elif contender.path == "/json":
        return int(np.argmax(json.loads(body)["data"]))
    elif contender.path == "/binary":
        raw = body
    else:
        lower = head.lower()
        start = lower.index(b"inference-header-content-length:") + 32
        raw = body[int(lower[start:].split(b"\r\n")[0]) :]
    return int(np.frombuffer(raw, np.float32).argmax())

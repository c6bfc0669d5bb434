"""A tiny artifact for each engine, all of one function: ``y = x @ WEIGHTS`` with a free batch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge.core import plugins
from edge.core.build import PLAN_FILE, BuildPlan, ShapeRange
from edge.core.contracts import Backend, Session
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import load_profile
from edge.core.tensor import TensorSpec

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
INPUTS = (TensorSpec("x", "float32", ("batch", 3)),)
OUTPUTS = (TensorSpec("y", "float32", ("batch", 4)),)


@pytest.fixture(scope="session")
def weights() -> np.ndarray:
    return WEIGHTS


@pytest.fixture(scope="session")
def make_onnx() -> Callable[..., bytes]:
    """Make an ONNX file of one node; ``inputs`` and ``outputs`` are name -> (type, shape)."""
    onnx = pytest.importorskip("onnx")

    def make(op: str, inputs: Any, outputs: Any, constants: Any = ()) -> bytes:
        values = [
            [
                onnx.helper.make_tensor_value_info(
                    name, onnx.TensorProto.DataType.Value(kind), dims
                )
                for name, (kind, dims) in given.items()
            ]
            for given in (inputs, outputs)
        ]
        tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants]
        names = [*inputs, *(name for name, _ in constants)]
        node = onnx.helper.make_node(op, names, list(outputs))
        graph = onnx.helper.make_graph([node], "tiny", *values, tensors)
        opsets = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
        data: bytes = model.SerializeToString()
        return data

    return make


@pytest.fixture(scope="session")
def product(make_onnx: Callable[..., bytes]) -> bytes:
    io = {"x": ("FLOAT", ["batch", 3])}, {"y": ("FLOAT", ["batch", 4])}
    return make_onnx("MatMul", *io, [("w", WEIGHTS)])


@pytest.fixture
def variant_of(tmp_path: Path) -> Callable[..., Variant]:
    """Write the engine's files into ``tmp_path`` and describe them."""

    def make(engine: str, files: dict[str, bytes], **fields: Any) -> Variant:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        entries = tuple(
            FileEntry(name, hashlib.sha256(data).hexdigest(), len(data))
            for name, data in files.items()
        )
        given = {"precision": "fp32", "inputs": INPUTS, "outputs": OUTPUTS, **fields}
        return Variant(id=f"{engine}-tiny", engine=engine, files=entries, **given)

    return make


@pytest.fixture
def one_node(
    make_onnx: Callable[..., bytes], variant_of: Callable[..., Variant]
) -> Callable[..., Variant]:
    """Make a variant of one operator; the engine finds its tensors in the file unless told."""

    def make(engine: str, op: str, takes: Any, gives: Any, **fields: Any) -> Variant:
        files = {"model.onnx": make_onnx(op, takes, gives)}
        return variant_of(engine, files, **{"inputs": (), "outputs": (), **fields})

    return make


def _openvino_ir(model: bytes, folder: Path) -> dict[str, bytes]:
    import openvino

    openvino.save_model(openvino.Core().read_model(model, b""), folder / "model.xml")
    return {name: (folder / name).read_bytes() for name in ("model.xml", "model.bin")}


def _enter_recorded_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    import fake_cuda
    from fake_world import World

    from runtimes._tensorrt import graphs

    world = World("10.3")
    library = fake_cuda.Library(world)
    for name, module in world.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(graphs, "_library", lambda: library)


def _with_plan(product: bytes) -> dict[str, bytes]:
    plan = BuildPlan(shapes={"x": ShapeRange((1, 3), (1, 3), (64, 3))})
    return {"model.onnx": product, PLAN_FILE: msgspec.json.encode(plan)}


@pytest.fixture(params=plugins.stems("runtimes"))
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Every engine of this project that is installed; TensorRT else on a recorded machine."""
    backend = plugins.backend(request.param)
    availability = backend.availability()
    if backend.name == "tensorrt" and not availability.ready:
        _enter_recorded_machine(monkeypatch)
        availability = backend.availability()
    if not availability.ready:
        pytest.skip(f"{request.param}: {availability.reason}")
    return backend


@pytest.fixture
def variant(
    backend: Backend, product: bytes, tmp_path: Path, variant_of: Callable[..., Variant]
) -> Variant:
    """``y = x @ WEIGHTS`` in the engine's own format."""
    files = {
        "null": dict,
        "onnxruntime": lambda: {"model.onnx": product},
        "openvino": lambda: _openvino_ir(product, tmp_path),
        "tensorrt": lambda: _with_plan(product),
    }
    if backend.name not in files:
        pytest.skip(f"no tiny artifact for {backend.name} yet")
    # OpenVINO's own choice on a CPU with AMX would be BF16, which holds no 273.
    options = {"INFERENCE_PRECISION_HINT": "f32"} if backend.name == "openvino" else {}
    return variant_of(backend.name, files[backend.name](), options=options)


@pytest.fixture
def open_session(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Open a variant whose files lie in ``tmp_path``; closed at the end of the test."""
    opened: list[Session] = []

    def open_it(variant: Variant, **options: Any) -> Session:
        backend = plugins.backend(variant.engine)
        session = backend.open(variant, tmp_path, load_profile("host"), options)
        opened.append(session)
        return session

    yield open_it
    for session in opened:
        session.close()

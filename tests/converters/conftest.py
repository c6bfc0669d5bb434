"""Tiny real networks, samples for them, and profiles."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.core.profile import Device, DeviceProfile, Onnx, Precision, Runtimes, Shapes


def _weight(name: str, *shape: int, gain: float = 1.0) -> TensorProto:
    generator = np.random.default_rng(sum(name.encode()))
    fan_in = int(np.prod(shape[1:])) or 1
    values = generator.standard_normal(shape) * gain / np.sqrt(fan_in)
    return numpy_helper.from_array(values.astype(np.float32), name)


def _save(path: Path, nodes, weights, inputs, outputs) -> Path:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def convolutional(path: Path, batch: int | str = "batch") -> Path:
    """Convolution, ReLU6, a depthwise one, a residual Add, pooling and a Gemm."""
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["c0"], "c0", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c0", "zero", "six"], ["r0"], "r0"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], "c1", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["c1"], ["r1"], "r1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "c2"),
        helper.make_node("Add", ["c2", "r1"], ["sum"], "sum"),
        helper.make_node("GlobalAveragePool", ["sum"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["scores"], "scores", transB=1),
    ]
    weights = [
        _weight("w0", 8, 3, 3, 3, gain=3),
        _weight("b0", 8),
        _weight("w1", 8, 1, 3, 3, gain=2),
        _weight("b1", 8),
        _weight("w2", 8, 8, 1, 1),
        _weight("w3", 5, 8, gain=4),
        _weight("b3", 5),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 12, 12])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])
    return _save(path, nodes, weights, [image], [scores])


def dense(path: Path) -> Path:
    """Two matrix products, of two inputs, with two outputs."""
    nodes = [
        helper.make_node("Concat", ["left", "right"], ["both"], "both", axis=1),
        helper.make_node("MatMul", ["both", "w0"], ["m0"], "m0"),
        helper.make_node("Add", ["m0", "b0"], ["a0"], "a0"),
        helper.make_node("Relu", ["a0"], ["hidden"], "hidden"),
        helper.make_node("MatMul", ["hidden", "w1"], ["answer"], "answer"),
    ]
    weights = [_weight("w0", 12, 64), _weight("b0", 64), _weight("w1", 64, 4)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 6])
        for name in ("left", "right")
    ]
    outputs = [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", 64]),
        helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 4]),
    ]
    return _save(path, nodes, weights, inputs, outputs)


def all_in_branches(path: Path) -> Path:
    """A network whose weighted layers all lie inside ``If``."""

    def branch(sign: float) -> onnx.GraphProto:
        name = "positive" if sign > 0 else "negative"
        weight = numpy_helper.from_array(np.full((6, 4), sign, np.float32), "w")
        node = helper.make_node("MatMul", ["x", "w"], [f"{name}_out"], f"{name}_product")
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out], [weight])

    node = helper.make_node(
        "If", ["flag"], ["y"], "choice", then_branch=branch(1.0), else_branch=branch(-1.0)
    )
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, [1]),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    return _save(path, [node], [], inputs, [out])


class Noise:
    """Samples with a batch axis of 1, the same each time they are gone through."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], count: int = 40) -> None:
        self.shapes = shapes
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self):  # type: ignore[no-untyped-def]
        generator = np.random.default_rng(7)
        for _ in range(self.count):
            yield {
                name: generator.standard_normal(shape).astype(np.float32)
                for name, shape in self.shapes.items()
            }


IMAGES = {"image": (1, 3, 12, 12)}
PAIRS = {"left": (1, 6), "right": (1, 6)}


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Noise]]:
    """Name -> a model file, and samples that fit it."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        "convolutional": (convolutional(folder / "convolutional.onnx"), Noise(IMAGES)),
        "dense": (dense(folder / "dense.onnx"), Noise(PAIRS)),
    }


@pytest.fixture
def branches(tmp_path: Path) -> Path:
    return all_in_branches(tmp_path / "branches.onnx")


@pytest.fixture(scope="session")
def profile() -> DeviceProfile:
    """An x86 PC that takes what devices of the field take."""
    return DeviceProfile(
        name="pc",
        device=Device(title="A PC", arch="x86_64"),
        onnx=Onnx(opset=17, ir=8),
        precision=Precision(legal=("fp32", "bf16", "fp16", "int8")),
        runtimes=Runtimes(order=("openvino", "onnxruntime")),
    )


@pytest.fixture(scope="session")
def arm(profile: DeviceProfile) -> DeviceProfile:
    return msgspec.structs.replace(profile, device=Device(title="A board", arch="aarch64"))


@pytest.fixture(scope="session")
def static_only(profile: DeviceProfile) -> DeviceProfile:
    return msgspec.structs.replace(profile, name="npu", shapes=Shapes(static=True))


@pytest.fixture(scope="session")
def noise() -> type[Noise]:
    return Noise

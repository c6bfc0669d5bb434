"""A network with one of everything that the rules speak of, and devices of three generations."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.core.profile import DeviceProfile, Onnx, Precision, Runtimes, Software

INPUT = (1, 3, 16, 16)


def weight(name: str, *shape: int) -> TensorProto:
    generator = np.random.default_rng(sum(name.encode()))
    fan_in = int(np.prod(shape[1:])) or 1
    values = generator.standard_normal(shape) * np.sqrt(2 / fan_in)
    return numpy_helper.from_array(values.astype(np.float32), name)


def rich_network() -> onnx.ModelProto:
    """A stem of 3 channels, a residual block with a shortcut, two branches that are joined, a
    transposed and a depthwise convolution, products with weights, with one vector, and of two
    activations."""
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w_stem"], ["stem"], "stem", pads=[1, 1, 1, 1]),
        node("Relu", ["stem"], ["stem_relu"], "stem_relu"),
        node("Conv", ["stem_relu", "w_first", "b_first"], ["first"], "first", pads=[1] * 4),
        node("Relu", ["first"], ["first_relu"], "first_relu"),
        node("Conv", ["stem_relu", "w_short"], ["short"], "short"),
        node("Conv", ["first_relu", "w_second"], ["second"], "second", pads=[1] * 4),
        node("Add", ["second", "short"], ["sum"], "sum"),
        node("Relu", ["sum"], ["sum_relu"], "sum_relu"),
        node("Conv", ["sum_relu", "w_third"], ["third"], "third", pads=[1] * 4),
        node("Add", ["sum_relu", "third"], ["again"], "again"),
        node("MaxPool", ["again"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pool", "w_left"], ["left"], "left"),
        node("Conv", ["pool", "w_right"], ["right"], "right"),
        node("Concat", ["left", "right"], ["both"], "both", axis=1),
        node("Resize", ["both", "", "scales"], ["large"], "large", mode="nearest"),
        node("ConvTranspose", ["large", "w_up"], ["up"], "up"),
        node("Sigmoid", ["up"], ["gate"], "gate"),
        node("Conv", ["gate", "w_deep"], ["deep"], "deep", pads=[1] * 4, group=32),
        node("Conv", ["deep", "w_narrow"], ["narrow"], "narrow"),
        node("Flatten", ["narrow"], ["flat"], "flat"),
        node("Gemm", ["flat", "w_vector"], ["vector"], "vector"),
        node("Reshape", ["deep", "rows"], ["tokens"], "tokens"),
        node("MatMul", ["tokens", "w_query"], ["query"], "query"),
        node("Transpose", ["query"], ["turned"], "turned", perm=[0, 2, 1]),
        node("MatMul", ["query", "turned"], ["scores"], "scores"),
        node("Softmax", ["scores"], ["weights"], "weights", axis=-1),
    ]
    weights = [
        weight("w_stem", 16, 3, 3, 3),
        weight("w_first", 32, 16, 3, 3),
        weight("b_first", 32),
        weight("w_short", 32, 16, 1, 1),
        weight("w_second", 32, 32, 3, 3),
        weight("w_third", 32, 32, 3, 3),
        weight("w_left", 16, 32, 1, 1),
        weight("w_right", 16, 32, 1, 1),
        weight("w_up", 32, 32, 1, 1),
        weight("w_deep", 32, 1, 3, 3),
        weight("w_narrow", 8, 32, 1, 1),
        weight("w_vector", 2048, 16),
        weight("w_query", 256, 16),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([0, 32, 256], np.int64), "rows"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *INPUT[1:]])
    outputs = [
        helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", 16]),
        helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", 32, 32]),
    ]
    graph = helper.make_graph(nodes, "rich", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def rich() -> onnx.ModelProto:
    return rich_network()


@pytest.fixture(scope="session")
def pictures() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(3)
    return [{"image": generator.random(INPUT).astype(np.float32)} for _ in range(40)]


@pytest.fixture(scope="session")
def orin(profile: DeviceProfile) -> DeviceProfile:
    """TensorRT 10: strongly typed."""
    return msgspec.structs.replace(
        profile,
        name="orin",
        software=Software(tensorrt=">=10.3,<10.4"),
        onnx=Onnx(opset=20, ir=9),
        precision=Precision(legal=("fp32", "fp16", "int8")),
        runtimes=Runtimes(order=("tensorrt", "onnxruntime")),
    )


@pytest.fixture(scope="session")
def xavier(orin: DeviceProfile) -> DeviceProfile:
    """TensorRT 8: weakly typed."""
    return msgspec.structs.replace(
        orin, name="xavier", software=Software(tensorrt=">=8.5,<8.6"), onnx=Onnx(opset=17, ir=8)
    )


@pytest.fixture(scope="session")
def jetpack7(orin: DeviceProfile) -> DeviceProfile:
    """TensorRT 10.16, whose parser takes BF16 and INT4."""
    return msgspec.structs.replace(
        orin,
        name="jetpack7",
        software=Software(tensorrt=">=10.16,<11"),
        onnx=Onnx(opset=24, ir=11),
        precision=Precision(legal=("fp32", "bf16", "fp16", "int8", "int4")),
    )


@pytest.fixture(scope="session")
def thor(orin: DeviceProfile) -> DeviceProfile:
    return msgspec.structs.replace(
        orin,
        name="thor",
        software=Software(tensorrt=">=10.13,<11"),
        precision=Precision(legal=("fp32", "fp16", "fp8", "int8")),
    )

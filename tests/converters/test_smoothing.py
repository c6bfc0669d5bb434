"""Outliers of activations go into the weights, and the answers stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters._quantization import onnx_int8
from converters._quantization.onnx_sensitivity import answers
from converters._quantization.samples import CalibrationSamples
from converters._quantization.smoothing import smooth
from edge.core.tensor import TensorSpec

TOKENS, WIDTH = 6, 32


def attention(mask: float = -1e4) -> onnx.ModelProto:
    """One head over (batch, tokens, width), whose norm has two channels that are 60 times as large
    as the others, and a residual that reads the norm too."""
    generator = np.random.default_rng(11)
    node = helper.make_node
    nodes = [
        node("Mul", ["x", "gain"], ["norm"], "norm"),
        node("MatMul", ["norm", "w_query"], ["query"], "query"),
        node("MatMul", ["norm", "w_key"], ["key"], "key"),
        node("MatMul", ["norm", "w_value"], ["value"], "value"),
        node("Transpose", ["key"], ["turned"], "turned", perm=[0, 2, 1]),
        node("MatMul", ["query", "turned"], ["scores"], "scores"),
        node("Add", ["scores", "mask"], ["masked"], "masked"),
        node("Softmax", ["masked"], ["weights"], "weights", axis=-1),
        node("MatMul", ["weights", "value"], ["mixed"], "mixed"),
        node("Gemm", ["flat", "w_out"], ["out"], "out", transB=1),
        node("Add", ["out", "residual"], ["y"], "y"),
    ]
    nodes.insert(9, node("Reshape", ["mixed", "flat_shape"], ["flat"], "flat"))
    nodes.insert(10, node("Reshape", ["norm", "flat_shape"], ["residual"], "residual"))
    gain = np.ones(WIDTH, np.float32)
    gain[[3, 17]] = 60
    hidden = np.zeros((1, TOKENS, TOKENS), np.float32)
    hidden[..., -1] = mask
    constants = {
        "gain": gain,
        "mask": hidden,
        "flat_shape": np.array([-1, WIDTH], np.int64),
        **{
            name: (generator.standard_normal((WIDTH, WIDTH)) / 20).astype(np.float32)
            for name in ("w_query", "w_key", "w_value", "w_out")
        },
    }
    constants["w_query"][[3, 17]] /= 60
    constants["w_key"][[3, 17]] /= 60
    constants["w_value"][[3, 17]] /= 60
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TOKENS, WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [TOKENS, WIDTH])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "attention", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def samples() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(2)
    shape = (1, TOKENS, WIDTH)
    return [{"x": generator.standard_normal(shape).astype(np.float32)} for _ in range(40)]


def _noise(expected, got) -> float:  # type: ignore[no-untyped-def]
    """Power of the error over that of the answer, what the residual brings left out."""
    error = sum(float(((a["y"] - b["y"]) ** 2).sum()) for a, b in zip(expected, got, strict=True))
    return error / sum(float((a["y"] ** 2).sum()) for a in expected)


def test_answers_stay_and_one_division_serves_all_who_read(samples):
    model = attention()
    expected = answers(model, samples)
    assert smooth(model, samples) == 2
    assert _noise(expected, answers(model, samples)) < 1e-9
    nodes = {node.name: node for node in model.graph.node}
    assert {nodes[name].input[0] for name in ("query", "key", "value")} == {"norm/smoothed"}
    assert nodes["residual"].input[0] == "norm"
    assert [n.op_type for n in model.graph.node].count("Mul") == 3


def test_channels_are_even_afterwards(samples):
    model = attention()
    smooth(model, samples)
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("norm", "norm/smoothed")
    )
    found = answers(model, samples)
    spread = {}
    for name in ("norm", "norm/smoothed"):
        peaks = np.max([np.abs(each[name]).max(axis=(0, 1)) for each in found], axis=0)
        spread[name] = peaks.max() / np.median(peaks)
    assert spread["norm"] > 50
    assert spread["norm/smoothed"] < 5


def test_int8_of_attention_leaves_masks_and_products_of_activations_in_float(samples, tmp_path):
    spec = (TensorSpec("x", "float32", (1, TOKENS, WIDTH)),)
    calibration = CalibrationSamples(samples, spec)
    model = attention()
    expected = answers(model, samples[:8])
    best = onnx_int8.quantize(
        model, calibration, onnx_int8.Tuning(), tmp_path, is_signed=False
    ).model
    nodes = {node.name: node for node in best.graph.node}
    quantized = {node.output[0] for node in best.graph.node if node.op_type == "DequantizeLinear"}
    for name in ("scores", "mixed", "masked", "weights"):
        assert not quantized & set(nodes[name].input), name
    assert quantized >= set(nodes["query"].input)
    assert _noise(expected, answers(best, samples[:8])) < 1e-4

"""Refining a graph before it is quantized changes its answers as little as claimed, and helps."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from converters._quantization.bias import correct_biases
from converters._quantization.closeness import closeness_db
from converters._quantization.equalization import depthwise_pairs, equalize
from converters._quantization.rounding import LEVELS, layers_of, round_weights
from converters._quantization.statistics import channel_statistics


def _load(path):  # type: ignore[no-untyped-def]
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 2:
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.zeros(8, np.float32), "added")
            )
            node.input.append("added")
    return model


def _run(model, samples):  # type: ignore[no-untyped-def]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, f), strict=True)) for f in samples]


def _weights(model):  # type: ignore[no-untyped-def]
    return {t.name: onnx.numpy_helper.to_array(t).copy() for t in model.graph.initializer}


def _plainly_rounded(model):  # type: ignore[no-untyped-def]
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    for layer in layers_of(rounded):
        tensor = next(t for t in rounded.graph.initializer if t.name == layer.weight)
        values = onnx.numpy_helper.to_array(tensor)
        axes = tuple(range(1, values.ndim))
        scale = np.abs(values).max(axis=axes, keepdims=True) / LEVELS
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(values / scale) * scale, tensor.name))
    return rounded


def test_equalizing_fills_the_range_of_every_channel_and_keeps_the_answers(networks):
    path, samples = networks["convolutional"]
    model = _load(path)
    bound = next(t for t in model.graph.initializer if t.name == "six")
    bound.CopyFrom(onnx.numpy_helper.from_array(np.float32(60), "six"))  # out of reach
    (pair,) = depthwise_pairs(model)
    assert (pair.first.name, pair.second.name) == ("c0", "c1")
    before = _run(model, samples)
    peaks = channel_statistics(model, {pair.between: 4}, samples).peaks
    assert peaks["r0"].max() > 1.05 * peaks["r0"].min()
    equalize(model, peaks)
    np.testing.assert_allclose(
        channel_statistics(model, {"r0": 4}, samples).peaks["r0"], peaks["r0"].max(), rtol=1e-4
    )
    for want, got in zip(before, _run(model, samples), strict=True):
        np.testing.assert_allclose(got["scores"], want["scores"], rtol=1e-3, atol=1e-4)


def test_rounded_weights_lie_on_the_grid_that_a_quantizer_finds(networks):
    path, samples = networks["convolutional"]
    model = _load(path)
    before = _weights(model)
    assert round_weights(model, samples) == 4
    for layer in layers_of(model):
        values = _weights(model)[layer.weight].reshape(len(before[layer.weight]), -1)
        original = before[layer.weight].reshape(len(values), -1)
        scale = np.abs(values).max(axis=1, keepdims=True) / LEVELS
        np.testing.assert_allclose(scale[:, 0], np.abs(original).max(axis=1) / LEVELS, rtol=1e-6)
        np.testing.assert_allclose(values / scale, np.round(values / scale), atol=1e-3)


def test_rounding_with_care_is_nearer_than_plain_rounding(networks):
    path, samples = networks["convolutional"]
    model = _load(path)
    expected = _run(model, samples)
    plain = closeness_db(expected, _run(_plainly_rounded(model), samples))
    with_care = onnx.ModelProto()
    with_care.CopyFrom(model)
    round_weights(with_care, samples)
    ranks = {"image": 4, "r0": 4, "r1": 4, "flat": 2}
    means = channel_statistics(model, ranks, samples).means
    assert correct_biases(with_care, model, means) == 4
    assert closeness_db(expected, _run(with_care, samples)) > plain + 1


def test_inputs_that_never_change_are_rounded_like_any_other(networks):
    path, samples = networks["convolutional"]
    model = _load(path)
    still = [{"image": np.zeros((1, 3, 12, 12), np.float32)} for _ in samples]
    round_weights(model, still)
    assert all(np.isfinite(values).all() for values in _weights(model).values())


def test_a_corrected_bias_restores_the_mean_that_weights_have_lost(networks):
    path, samples = networks["dense"]
    model = onnx.load(path)
    gemm = onnx.helper.make_node("Gemm", ["both", "w0", "b0"], ["a0"], "m0")
    kept = [node for node in model.graph.node if node.name not in ("m0", "a0")]
    del model.graph.node[:]
    model.graph.node.extend([kept[0], gemm, *kept[1:]])
    damaged = onnx.ModelProto()
    damaged.CopyFrom(model)
    weight = next(t for t in damaged.graph.initializer if t.name == "w0")
    weight.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(0.5), "w0")
    )
    means = channel_statistics(model, {"both": 2}, samples).means
    correct_biases(damaged, model, means)
    want = channel_statistics(model, {"a0": 2}, samples).means["a0"]
    got = channel_statistics(damaged, {"a0": 2}, samples).means["a0"]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_closeness_of_equal_answers_is_far_above_that_of_noisy_ones():
    exact = [{"y": np.arange(1.0, 5.0)}]
    noisy = [{"y": np.arange(1.0, 5.0) + 0.1}]
    assert closeness_db(exact, exact) > 200
    np.testing.assert_allclose(closeness_db(exact, noisy), 10 * np.log10(30 / 0.04))

"""TensorFlow Lite models are converted for OpenVINO, and refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edge
from edge.cli._main import main
from edge.conversion.cache import StageCache
from edge.core.errors import InputError, ModelError, UnsupportedError

flatbuffers = pytest.importorskip("flatbuffers")
tflite = pytest.importorskip("tflite", reason="the schema of TensorFlow Lite is not installed")

WEIGHTS = np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype(np.float32) / 4
BIAS = np.array([0.5, -0.25, 0.0, 1.0], np.float32)


def _vector(builder, start, offsets):  # type: ignore[no-untyped-def]
    start(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _ints(builder, values):  # type: ignore[no-untyped-def]
    return builder.CreateNumpyVector(np.array(values, np.int32))


def _tensor(builder, name, shape, buffer):  # type: ignore[no-untyped-def]
    title, dims = builder.CreateString(name), _ints(builder, shape)
    tflite.TensorStart(builder)
    tflite.TensorAddName(builder, title)
    tflite.TensorAddShape(builder, dims)
    tflite.TensorAddType(builder, tflite.TensorType.FLOAT32)
    tflite.TensorAddBuffer(builder, buffer)
    return tflite.TensorEnd(builder)


def _buffer(builder, data):  # type: ignore[no-untyped-def]
    vector = builder.CreateByteVector(data) if data else None
    tflite.BufferStart(builder)
    if vector is not None:
        tflite.BufferAddData(builder, vector)
    return tflite.BufferEnd(builder)


def _write(path: Path) -> Path:
    """A convolution with Relu over pictures of 8 by 8 with two channels, which come last."""
    builder = flatbuffers.Builder(4096)
    buffers = [_buffer(builder, data) for data in (b"", WEIGHTS.tobytes(), BIAS.tobytes())]
    tensors = [
        _tensor(builder, "image", [1, 8, 8, 2], 0),
        _tensor(builder, "weights", [4, 3, 3, 2], 1),
        _tensor(builder, "bias", [4], 2),
        _tensor(builder, "scores", [1, 6, 6, 4], 0),
    ]
    tflite.Conv2DOptionsStart(builder)
    tflite.Conv2DOptionsAddPadding(builder, tflite.Padding.VALID)
    tflite.Conv2DOptionsAddStrideW(builder, 1)
    tflite.Conv2DOptionsAddStrideH(builder, 1)
    tflite.Conv2DOptionsAddFusedActivationFunction(builder, tflite.ActivationFunctionType.RELU)
    options = tflite.Conv2DOptionsEnd(builder)
    inputs, outputs = _ints(builder, [0, 1, 2]), _ints(builder, [3])
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, 0)
    tflite.OperatorAddInputs(builder, inputs)
    tflite.OperatorAddOutputs(builder, outputs)
    tflite.OperatorAddBuiltinOptionsType(builder, tflite.BuiltinOptions.Conv2DOptions)
    tflite.OperatorAddBuiltinOptions(builder, options)
    operators = _vector(builder, tflite.SubGraphStartOperatorsVector, [tflite.OperatorEnd(builder)])
    all_tensors = _vector(builder, tflite.SubGraphStartTensorsVector, tensors)
    graph_inputs, graph_outputs = _ints(builder, [0]), _ints(builder, [3])
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, all_tensors)
    tflite.SubGraphAddInputs(builder, graph_inputs)
    tflite.SubGraphAddOutputs(builder, graph_outputs)
    tflite.SubGraphAddOperators(builder, operators)
    graphs = _vector(builder, tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(builder)])
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, tflite.BuiltinOperator.CONV_2D)
    tflite.OperatorCodeAddBuiltinCode(builder, tflite.BuiltinOperator.CONV_2D)
    tflite.OperatorCodeAddVersion(builder, 1)
    codes = _vector(
        builder, tflite.ModelStartOperatorCodesVector, [tflite.OperatorCodeEnd(builder)]
    )
    all_buffers = _vector(builder, tflite.ModelStartBuffersVector, buffers)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, codes)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, all_buffers)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.fixture
def model(tmp_path):
    return _write(tmp_path / "model.tflite")


def _by_hand(image: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(image[0], (3, 3), axis=(0, 1))
    return np.maximum(np.einsum("yxcij,oijc->yxo", windows, WEIGHTS) + BIAS, 0)[None]


def _convert(model, tmp_path, **changes):  # type: ignore[no-untyped-def]
    arguments = {"output": tmp_path / "out.edge", "cache": StageCache(tmp_path / "cache")}
    return edge.convert(model, **{**arguments, **changes})


def test_it_is_converted_for_openvino_and_answers_as_computed_by_hand(model, tmp_path):
    samples = np.random.default_rng(1).random((40, 8, 8, 2), np.float32)
    np.savez(tmp_path / "calib.npz", image=samples)
    report = _convert(model, tmp_path, calibration=tmp_path / "calib.npz").report
    made = {row.id: row for row in report.variants}
    assert {"openvino-fp32", "openvino-int8"} <= set(made) | {r.id for r in report.tried}
    assert all(row.engine == "openvino" for row in report.variants)
    assert any("ONNX Runtime does not read .tflite" in item.why for item in report.tried)
    with edge.load(tmp_path / "out.edge") as loaded:
        scores = loaded.infer({"image": samples[:1]})["scores"]
    expected = _by_hand(samples[:1])
    np.testing.assert_allclose(scores, expected, atol=0.02 * np.abs(expected).max())


def test_a_device_without_openvino_refuses_it_with_what_to_do(model, tmp_path):
    with pytest.raises(ModelError, match="OpenVINO alone reads") as caught:
        _convert(model, tmp_path, profile="jetson-orin-nano-8gb")
    assert "tf2onnx" in caught.value.hint


def test_onnx_runtime_alone_refuses_it(model, tmp_path):
    with pytest.raises((ModelError, UnsupportedError), match="does not read"):
        _convert(model, tmp_path, engines=["onnxruntime"], precision="fp32")


def test_other_shapes_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="fixed in its file"):
        _convert(model, tmp_path, batch=4)


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"garbage" * 100, b"\0\0\0\0TFL3" + b"\xff" * 64]
)
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.tflite"):
        _convert(path, tmp_path)


def test_check_says_that_it_does_not_estimate_it(model, capsys):
    assert main(["check", str(model)]) == 2
    assert "edge convert takes it" in capsys.readouterr().err

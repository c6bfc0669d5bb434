"""What only the ONNX converter does: opset and IR, signs, recipes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from converters.onnx import CONVERTER
from edge.core.contracts import ConvertRequest
from edge.core.errors import ModelError


def _convert(model, profile, samples, folder, precision="int8", **options):  # type: ignore[no-untyped-def]
    request = ConvertRequest(model, profile, precision, calibration=samples, options=options)
    variant = CONVERTER.convert(request, folder)
    return variant, onnx.load(folder / variant.files[0].path)


def _zero_point_types(model: onnx.ModelProto) -> set[int]:
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {kinds[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"}


@pytest.mark.parametrize("precision", [p for p in CONVERTER.precisions if p != "int4"])
def test_opset_and_ir_stay_within_the_profile(networks, profile, tmp_path, precision):
    model, samples = networks["convolutional"]
    _, written = _convert(model, profile, samples, tmp_path, precision)
    opsets = {entry.domain: entry.version for entry in written.opset_import}
    assert opsets[""] <= profile.onnx.opset
    assert written.ir_version <= profile.onnx.ir


def test_activations_are_unsigned_on_x86_and_signed_on_arm(networks, profile, arm, tmp_path):
    model, samples = networks["convolutional"]
    (tmp_path / "x86").mkdir()
    (tmp_path / "arm").mkdir()
    _, unsigned = _convert(model, profile, samples, tmp_path / "x86")
    _, signed = _convert(model, arm, samples, tmp_path / "arm")
    assert _zero_point_types(unsigned) == {onnx.TensorProto.UINT8}
    assert _zero_point_types(signed) == {onnx.TensorProto.INT8}


def test_weights_have_one_signed_scale_per_output_channel(networks, profile, tmp_path):
    model, samples = networks["convolutional"]
    _, written = _convert(model, profile, samples, tmp_path)
    tensors = {tensor.name: tensor for tensor in written.graph.initializer}
    makers = {node.output[0]: node for node in written.graph.node}
    layers = [node for node in written.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 4
    for node in layers:
        stored = makers[node.input[1]]
        weight, scale = (tensors[name] for name in stored.input[:2])
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]


def test_few_samples_are_noted(networks, profile, noise, tmp_path):
    model, samples = networks["dense"]
    variant, _ = _convert(model, profile, noise(samples.shapes, count=5), tmp_path)
    assert any("5 samples" in note for note in variant.notes)


def test_excluded_nodes_stay_in_float(networks, profile, tmp_path):
    model, samples = networks["convolutional"]
    _, written = _convert(model, profile, samples, tmp_path, exclude=["c0"])
    floats = {t.name for t in written.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    node = next(node for node in written.graph.node if node.name == "c0")
    assert node.input[1] in floats


def test_the_same_request_gives_the_same_bytes(networks, profile, tmp_path):
    model, samples = networks["convolutional"]
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        _convert(model, profile, samples, tmp_path / name)
        contents.append((tmp_path / name / "model.onnx").read_bytes())
    assert contents[0] == contents[1]


def test_int8_below_opset_13_is_refused(networks, profile, tmp_path):
    model, samples = networks["dense"]
    old = onnx.load(model)
    old.opset_import[0].version = 11
    onnx.save(old, tmp_path / "old.onnx")
    with pytest.raises(ModelError, match="opset 13"):
        _convert(tmp_path / "old.onnx", profile, samples, tmp_path)


def test_fp16_of_branches_with_equal_names_is_refused(branches, profile, tmp_path):
    with pytest.raises(ModelError, match="If or Loop"):
        _convert(branches, profile, None, tmp_path, "fp16")


def test_fp16_keeps_the_types_of_inputs_and_outputs(networks, profile, tmp_path):
    variant, written = _convert(networks["dense"][0], profile, None, tmp_path, "fp16")
    assert {spec.dtype for spec in (*variant.inputs, *variant.outputs)} == {"float32"}
    weights = [t for t in written.graph.initializer if len(t.dims) == 2]
    assert {t.data_type for t in weights} == {onnx.TensorProto.FLOAT16}
    assert np.isfinite(onnx.numpy_helper.to_array(weights[0])).all()

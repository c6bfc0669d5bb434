"""What only the OpenVINO converter does: precision hints, range of FP16, old processors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import openvino
import pytest

from converters.openvino import CONVERTER, may_overflow
from edge.core.contracts import ConvertRequest
from edge.core.profile import Device, Runtimes


@pytest.mark.parametrize(
    ("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16"), ("fp16", "f16")]
)
def test_the_engine_is_told_what_to_compute_in(networks, profile, tmp_path, precision, hint):
    variant = CONVERTER.convert(ConvertRequest(networks["dense"][0], profile, precision), tmp_path)
    assert variant.options == {"INFERENCE_PRECISION_HINT": hint}


def test_an_npu_computes_in_fp16_whatever_was_asked_for(networks, profile, tmp_path):
    runtimes = Runtimes(order=("openvino",), options={"openvino": {"device": "NPU"}})
    npu = msgspec.structs.replace(profile, runtimes=runtimes)
    variant = CONVERTER.convert(ConvertRequest(networks["dense"][0], npu, "fp16"), tmp_path)
    assert variant.options == {"INFERENCE_PRECISION_HINT": "f16"}


def test_weights_beyond_fp16_are_not_halved(networks, profile, tmp_path):
    model = onnx.load(networks["dense"][0])
    weight = next(t for t in model.graph.initializer if t.name == "w1")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] = 1e5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w1"))
    onnx.save(model, tmp_path / "large.onnx")
    CONVERTER.convert(ConvertRequest(tmp_path / "large.onnx", profile, "bf16"), tmp_path)
    written = openvino.Core().read_model(tmp_path / "model.xml")
    kept = [op.data for op in written.get_ops() if op.get_type_name() == "Constant"]
    assert max(float(np.abs(data).max()) for data in kept if data.size) == pytest.approx(1e5)


@pytest.mark.parametrize(
    ("device", "flags", "expected"),
    [
        (Device(title="", arch="aarch64"), "vnni", False),
        (Device(title="", arch="x86_64"), "avx512_vnni", True),
        (Device(title="", arch="x86_64", probed=True), "flags: avx2 avx_vnni", False),
        (Device(title="", arch="x86_64", probed=True), "flags: avx2", True),
        (Device(title="", arch="x86_64", probed=True), None, True),
    ],
)
def test_saturating_sums_are_expected_unless_known_otherwise(
    profile, tmp_path: Path, device, flags, expected
):
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(flags)
    asked = msgspec.structs.replace(profile, device=device)
    assert may_overflow(asked, cpuinfo) is expected


def test_a_model_with_branches_it_can_not_import_is_named(real_data, profile):
    (finding,) = CONVERTER.check(real_data / "models" / "silero_vad.onnx", profile)
    assert finding.severity == "error"
    assert "can not import silero_vad.onnx" in finding.message
    assert "If_0" in finding.message

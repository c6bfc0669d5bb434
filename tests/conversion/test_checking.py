"""What a check says of a model before any work: engines, names, types, memory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.conversion.checking import CheckReport, check
from edge.core.errors import InputError, ModelError
from edge.core.profile import (
    Compute,
    Device,
    DeviceProfile,
    Memory,
    Onnx,
    Precision,
    Runtimes,
    Shapes,
)

PC = DeviceProfile(
    name="pc",
    device=Device(title="A PC", arch="x86_64"),
    compute=Compute(engines=("cpu",), peak_tops={"cpu": {"fp32": 1.0}}),
    memory=Memory(bytes=1_000_000, gb_per_s=10),
    onnx=Onnx(opset=17, ir=8),
    precision=Precision(legal=("fp32", "int8")),
    runtimes=Runtimes(order=("openvino", "onnxruntime")),
)
NPU = msgspec.structs.replace(
    PC,
    name="npu",
    shapes=Shapes(static=True),
    runtimes=Runtimes(order=("openvino",), options={"openvino": {"device": "NPU"}}),
)


def _save(path: Path, nodes, shape, *, dtype=TensorProto.FLOAT, opset=13, weights=()) -> Path:  # type: ignore[no-untyped-def]
    """Nodes that lead from ``x`` to ``y``, both of this shape."""
    tensors = [helper.make_tensor_value_info(name, dtype, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "tiny", tensors[:1], tensors[1:], list(weights))
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def _chain(*ops: str, named: bool = True) -> list[onnx.NodeProto]:
    """Operators one after another, from ``x`` to ``y``."""
    values = ["x", *(f"v{place}" for place in range(1, len(ops))), "y"]
    return [
        helper.make_node(op, [values[i]], [values[i + 1]], f"node{i}" if named else "")
        for i, op in enumerate(ops)
    ]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def _messages(report: CheckReport, engine: str) -> dict[str, tuple[str, ...]]:
    """Message -> nodes, of one engine."""
    (found,) = (e for p in report.profiles for e in p.engines if e.engine == engine)
    return {finding.message: finding.nodes for finding in found.findings}


def test_a_sound_model_has_no_findings_and_its_costs(digits, work):
    report = check(digits / "digits.onnx", [PC], work)
    (found,) = report.profiles
    assert [(e.engine, e.takes, e.findings) for e in found.engines] == [
        ("openvino", True, ()),
        ("onnxruntime", True, ()),
    ]
    assert all(engine.asked for engine in found.engines)
    assert report.costs.flops == sum(node.flops for node in report.costs.nodes) > 0
    assert [estimate.precision for estimate in found.estimates] == ["fp32", "int8"]
    wide, narrow = found.estimates
    assert wide.fits
    assert narrow.peak_bytes < wide.peak_bytes < 1_000_000
    assert narrow.largest_batch > wide.largest_batch > 1  # type: ignore[operator]
    assert wide.latencies[0].basis == "roofline"
    assert narrow.latencies[0].basis == "bytes alone"


def test_the_engine_that_has_no_operator_names_its_nodes(tmp_path, work):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("Det", ["a"], ["d"], "volume"),
        helper.make_node("Add", ["x", "d"], ["y"], "second"),
    ]
    report = check(_save(tmp_path / "m.onnx", nodes, [4, 4]), [PC], work)
    ((message, named),) = _messages(report, "openvino").items()
    assert "Det" in message
    assert named == ("volume",)
    assert _messages(report, "onnxruntime") == {}
    assert report.profiles[0].takes


def test_all_nodes_without_a_kernel_for_their_type_are_named(tmp_path, work):
    weight = numpy_helper.from_array(np.ones((2, 2, 1, 1)), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w"], ["y"], "two"),
    ]
    path = _save(
        tmp_path / "m.onnx", nodes, [1, 2, 4, 4], dtype=TensorProto.DOUBLE, weights=[weight]
    )
    report = check(path, [PC], work)
    ((message, named),) = _messages(report, "onnxruntime").items()
    assert "Conv" in message
    assert named == ("one", "two")
    assert not report.profiles[0].takes


def test_nodes_without_a_name_go_by_what_they_write(tmp_path, work):
    nodes = [
        helper.make_node("Det", ["x"], ["d"]),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    report = check(_save(tmp_path / "m.onnx", nodes, [4, 4]), [PC], work)
    assert list(_messages(report, "openvino").values()) == [("d",)]


def test_a_device_that_is_not_here_is_not_answered_for(tmp_path, work):
    report = check(_save(tmp_path / "m.onnx", _chain("Relu"), [1, 4]), [NPU], work)
    (message,) = _messages(report, "openvino")
    assert "no NPU here" in message
    assert report.profiles[0].takes


def test_several_devices_are_answered_for_in_one_go(tmp_path, work):
    path = _save(tmp_path / "m.onnx", _chain("Relu", "Softmax"), ["n", 4])
    report = check(path, [PC, NPU], work)
    assert [(p.profile, p.takes) for p in report.profiles] == [("pc", True), ("npu", False)]
    (message,) = _messages(
        msgspec.structs.replace(report, profiles=report.profiles[1:]), "openvino"
    )
    assert "dynamic shape (n, 4); npu takes fixed shapes only" in message


def test_what_one_device_refuses_another_may_take(tmp_path, work):
    path = _save(tmp_path / "m.onnx", _chain("Relu"), [1, 4], opset=17)
    old = msgspec.structs.replace(PC, name="old", onnx=Onnx(opset=11, ir=6))
    report = check(path, [old, PC], work)
    assert [p.takes for p in report.profiles] == [False, True]
    assert "old takes up to 11" in report.profiles[0].engines[0].findings[0].message
    assert report.profiles[0].estimates[0].peak_bytes == report.profiles[1].estimates[0].peak_bytes


def test_types_that_the_device_does_not_list_are_named_with_their_nodes(tmp_path, work):
    path = _save(
        tmp_path / "m.onnx", _chain("Relu", "Neg"), [1, 4], dtype=TensorProto.FLOAT16, opset=13
    )
    report = check(path, [PC], work)
    assert _messages(report, "onnxruntime") == {
        "float16 in the file; pc lists fp32, int8": ("node0", "node1")
    }


def test_a_model_that_does_not_fit_is_said_not_to(tmp_path, work):
    path = _save(tmp_path / "m.onnx", _chain("Softmax", "Softmax"), ["n", 100_000])
    report = check(path, [PC], work)
    wide, narrow = report.profiles[0].estimates
    assert (wide.peak_bytes, wide.fits, wide.largest_batch) == (1_200_000, False, 0)
    assert (narrow.peak_bytes, narrow.fits, narrow.largest_batch) == (300_000, True, 2)
    assert "one inference needs an estimated 0.00 GB in fp32; pc has 0.00 GB" in _messages(
        report, "onnxruntime"
    )


def test_what_the_system_keeps_is_not_there_to_be_used(tmp_path, work):
    path = _save(tmp_path / "m.onnx", _chain("Softmax", "Softmax"), ["n", 10_000])
    memory = Memory(bytes=1_000_000, os_bytes=900_000)
    report = check(path, [msgspec.structs.replace(PC, memory=memory)], work)
    assert report.profiles[0].memory_bytes == 100_000
    assert report.profiles[0].estimates[0].fits is False


def test_memory_that_is_not_known_fits_nothing_and_refuses_nothing(tmp_path, work):
    path = _save(tmp_path / "m.onnx", _chain("Softmax"), ["n", 4])
    report = check(path, [msgspec.structs.replace(PC, memory=Memory())], work)
    assert report.profiles[0].takes
    for estimate in report.profiles[0].estimates:
        assert (estimate.fits, estimate.largest_batch) == (None, None)


def test_sizes_that_were_made_up_are_said(tmp_path, work):
    path = _save(tmp_path / "m.onnx", _chain("Softmax"), ["n", "length"])
    assert check(path, [PC], work).costs.assumed == {"length": 128}


def test_a_fixed_shape_leaves_nothing_to_make_up(tmp_path, work):
    path = _save(tmp_path / "m.onnx", _chain("Softmax"), ["n", "length"])
    report = check(path, [PC], work, shapes={"x": (1, 10)})
    assert report.costs.assumed == {}
    assert report.profiles[0].estimates[0].peak_bytes == 2 * 40


def test_an_operator_nobody_knows_is_refused_and_what_it_writes_is_not_counted(tmp_path, work):
    nodes = [
        helper.make_node("Novel", ["x"], ["v"], "strange"),
        helper.make_node("Relu", ["v"], ["y"], "relu"),
    ]
    report = check(_save(tmp_path / "m.onnx", nodes, [1, 4]), [PC], work)
    assert not report.profiles[0].takes
    assert any("Novel (node strange)" in message for message in _messages(report, "openvino"))
    assert report.costs.unknown == ("v",)


def test_a_model_too_large_to_run_here_is_checked_all_the_same(tmp_path, work, monkeypatch):
    monkeypatch.setattr("edge.conversion.memory.here_bytes", lambda: 16)
    report = check(_save(tmp_path / "m.onnx", _chain("Softmax"), [1, 4]), [PC], work)
    assert any("too large to run here" in message for message in _messages(report, "openvino"))
    assert report.profiles[0].takes


def test_a_file_that_is_no_model_is_an_error(tmp_path, work):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError):
        check(path, [PC], work)


def test_shapes_that_do_not_fit_are_an_error(tmp_path, work):
    path = _save(tmp_path / "m.onnx", _chain("Softmax"), ["n", 4])
    with pytest.raises(InputError):
        check(path, [PC], work, shapes={"nowhere": (1, 4)})

"""What engines say to operators: nodes they do not import, have no kernel for, or pass on."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters._operators import onnxruntime as onnxruntime_operators
from converters._operators import openvino as openvino_operators
from edge.core import plugins
from edge.core.profile import Runtimes


def _save(path, nodes, *, dtype=TensorProto.FLOAT, weights=(), opset=17):  # type: ignore[no-untyped-def]
    tensors = [helper.make_tensor_value_info(name, dtype, [1, 2, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "tiny", tensors[:1], tensors[1:], list(weights))
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def _on(profile, engine: str, device: str):  # type: ignore[no-untyped-def]
    runtimes = Runtimes(order=(engine,), options={engine: {"device": device}})
    return msgspec.structs.replace(profile, runtimes=runtimes)


@pytest.mark.parametrize("network", ["convolutional", "dense"])
def test_every_node_of_a_sound_model_has_a_kernel(networks, network):
    error = Exception("Could not find an implementation for Conv(11) node with name ''")
    assert onnxruntime_operators.without_kernel(networks[network][0], error) == ()


def test_kernels_are_looked_up_by_type_and_in_branches_too(tmp_path):
    weight = numpy_helper.from_array(np.ones((2, 2, 1, 1)), "w")

    def branch(name: str, op: str) -> onnx.GraphProto:
        inputs = ["x", "w"] if op == "Conv" else ["x"]
        node = helper.make_node(op, inputs, [name], f"{name}_{op}")
        out = helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, 2, 4, 4])
        return helper.make_graph([node], name, [], [out])

    condition = numpy_helper.from_array(np.array(True), "flag")
    node = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branch("t", "Conv"), else_branch=branch("e", "Relu")
    )
    path = _save(tmp_path / "m.onnx", [node], dtype=TensorProto.DOUBLE, weights=[weight, condition])
    with pytest.raises(Exception, match="Could not find an implementation") as caught:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert onnxruntime_operators.without_kernel(path, caught.value) == ("t_Conv",)


def test_a_failure_of_another_kind_names_no_nodes(networks):
    assert onnxruntime_operators.without_kernel(networks["dense"][0], ValueError("no")) == ()


def test_a_gpu_that_is_not_here_is_said_not_to_be(networks, profile):
    (finding,) = onnxruntime_operators.fallback_findings(
        networks["dense"][0], _on(profile, "onnxruntime", "cuda")
    )
    assert finding.severity == "info"
    assert "cuda, which is not here" in finding.message


def test_nodes_that_stay_on_the_cpu_of_a_gpu_are_named(networks, profile, monkeypatch):
    def part(provider: str, *names: str) -> SimpleNamespace:
        nodes = [SimpleNamespace(name=name, op_type="Add") for name in names]
        return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)

    parts = [part("CUDAExecutionProvider", "a", "b"), part("CPUExecutionProvider", "c", "")]
    session = SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    (finding,) = onnxruntime_operators.fallback_findings(
        networks["dense"][0], _on(profile, "onnxruntime", "cuda")
    )
    assert finding.severity == "warning"
    assert finding.nodes == ("c", "Add")


def test_openvino_names_all_nodes_it_can_not_import(tmp_path, profile):
    nodes = [
        helper.make_node("Det", ["x"], ["d"], "one"),
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Det", ["r"], ["e"], "two"),
        helper.make_node("Sum", ["d", "e"], ["s"], "sum"),
        helper.make_node("Unsqueeze", ["s", "axes"], ["u"], "unsqueeze"),
        helper.make_node("Add", ["x", "u"], ["y"], "add"),
    ]
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    path = _save(tmp_path / "m.onnx", nodes, weights=[axes])
    (finding,) = plugins.converter("openvino").check(path, profile)
    assert finding.severity == "error"
    assert sorted(finding.nodes) == ["one", "two"]


def test_openvino_asks_the_device_of_the_profile_for_every_node(networks, profile, monkeypatch):
    model = openvino.Core().read_model(networks["convolutional"][0])
    names = [op.get_friendly_name() for op in model.get_ops()]
    taken = dict.fromkeys(names[1:], "GPU")
    core = SimpleNamespace(available_devices=["CPU", "GPU.0"], query_model=lambda *_: taken)
    monkeypatch.setattr(openvino, "Core", lambda: core)
    (finding,) = openvino_operators.device_findings(model, _on(profile, "openvino", "GPU"))
    assert (finding.severity, finding.nodes) == ("error", (names[0],))


def test_openvino_does_not_answer_for_a_device_that_is_not_here(networks, profile):
    model = openvino.Core().read_model(networks["dense"][0])
    (finding,) = openvino_operators.device_findings(model, _on(profile, "openvino", "NPU"))
    assert finding.severity == "info"
    assert "no NPU here" in finding.message


class Plain(openvino.Op):
    """An operator that the engine knows no more of than how to call it."""

    def __init__(self, inputs) -> None:  # type: ignore[no-untyped-def]
        super().__init__(self, inputs)

    def validate_and_infer_types(self) -> None:
        self.set_output_type(0, self.get_input_element_type(0), self.get_input_partial_shape(0))

    def clone_with_new_inputs(self, inputs):  # type: ignore[no-untyped-def]
        return Plain(inputs)

    def has_evaluate(self) -> bool:
        return True


def test_nodes_that_openvino_computes_by_plain_loops_are_named(profile):
    ops = openvino.opset15
    given = ops.parameter([1, 4], np.float32, name="given")
    plain = Plain([given])
    plain.set_friendly_name("plain")
    model = openvino.Model([ops.relu(plain)], [given], "tiny")
    (finding,) = openvino_operators.device_findings(model, profile)
    assert (finding.severity, finding.nodes) == ("warning", ("plain",))


@pytest.mark.parametrize(
    ("dtype", "severity", "said"),
    [
        (TensorProto.STRING, "error", "text is not run through OpenVINO"),
        (TensorProto.DOUBLE, "warning", "float64 is computed in float32"),
    ],
)
def test_types_that_openvino_lacks_are_named_with_their_nodes(
    tmp_path, profile, dtype, severity, said
):
    node = helper.make_node("Concat", ["x", "x"], ["c"], "both", axis=1)
    end = helper.make_node("Slice", ["c", "zero", "two", "one"], ["y"], "half")
    values = (("zero", 0), ("one", 1), ("two", 2))
    weights = [numpy_helper.from_array(np.array([v], np.int64), name) for name, v in values]
    path = _save(tmp_path / "m.onnx", [node, end], dtype=dtype, weights=weights)
    found = plugins.converter("openvino").check(path, profile)
    assert (found[0].severity, found[0].message) == (severity, said)
    assert "both" in found[0].nodes

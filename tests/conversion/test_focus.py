"""Strided slices before a convolution become a larger kernel that gives the same answers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.conversion.focus import fold_space_to_depth

PHASES = [(0, 0), (1, 0), (0, 1), (1, 1)]  # YOLOX's order
END = 2**62


def _model(phases=PHASES, *, pads=(1, 1, 1, 1), step=2, group=1, is_read_twice=False):  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    for index, (row, column) in enumerate(phases):
        values = {"starts": [row, column], "ends": [END, END], "axes": [2, 3], "steps": [step] * 2}
        for name, value in values.items():
            weights.append(numpy_helper.from_array(np.array(value, np.int64), f"{name}{index}"))
        names = [f"{name}{index}" for name in values]
        nodes.append(helper.make_node("Slice", ["x", *names], [f"s{index}"], f"s{index}"))
    count = len(phases)
    nodes.append(
        helper.make_node("Concat", [f"s{i}" for i in range(count)], ["all"], "all", axis=1)
    )
    kernel = generator.standard_normal((4, 3 * count // group, 3, 3)).astype(np.float32)
    weights.append(numpy_helper.from_array(kernel, "w"))
    nodes.append(
        helper.make_node(
            "Conv", ["all", "w"], ["y"], "conv", pads=pads, group=group, strides=[1, 1]
        )
    )
    outputs = ["y"]
    if is_read_twice:
        outputs.append("all")
    graph = helper.make_graph(
        nodes,
        "stem",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 16])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"])
            for name in outputs
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _run(model):  # type: ignore[no-untyped-def]
    onnx.checker.check_model(model)
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 16)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 0, 0, 0), (2, 1, 0, 1)])
@pytest.mark.parametrize("phases", [PHASES, PHASES[::-1]])
def test_the_answers_stay_and_the_slices_go(phases, pads):
    model = _model(phases, pads=pads)
    expected = _run(model)
    folded = fold_space_to_depth(model)
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["w/wide"]
    np.testing.assert_allclose(_run(folded), expected, rtol=1e-5, atol=1e-5)


def test_the_operator_space_to_depth_is_folded_too():
    model = _model()
    del model.graph.node[:5]
    model.graph.node.insert(0, helper.make_node("SpaceToDepth", ["x"], ["all"], "d", blocksize=2))
    expected = _run(model)
    folded = fold_space_to_depth(model)
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    np.testing.assert_allclose(_run(folded), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        _model([(0, 0), (0, 0), (0, 1), (1, 1)]),
        _model(PHASES[:2]),
        _model(group=2),
        _model(is_read_twice=True),
    ],
    ids=["a phase twice", "two phases", "a grouped convolution", "the slices are an output"],
)
def test_what_only_looks_alike_is_left_as_it_is(model):
    before = model.SerializeToString()
    assert fold_space_to_depth(model).SerializeToString() == before

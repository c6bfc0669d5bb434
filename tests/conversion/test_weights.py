"""Weights that hold no numbers are refused, with the name of the node; masks are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.conversion import source
from edge.core.errors import ModelError
from edge.core.profile import load_profile

PROFILE = load_profile("generic-x86-64")


def _model(product: np.ndarray, mask: np.ndarray, *, as_constant: bool = False) -> onnx.ModelProto:  # type: ignore[type-arg]
    """A product with a weight, to which a mask is added."""
    weight, hidden = (numpy_helper.from_array(v, n) for v, n in ((product, "w"), (mask, "mask")))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Add", ["p", "mask"], ["y"], "masking"),
    ]
    if as_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], "made", value=weight))
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])] for name in ("x", "y")
    )
    weights = [hidden] if as_constant else [weight, hidden]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _with(value: float) -> np.ndarray:  # type: ignore[type-arg]
    values = np.ones((4, 4), np.float32)
    values[1, 2] = value
    return values


SOUND = np.ones((4, 4), np.float32)


@pytest.mark.parametrize("as_constant", [False, True])
@pytest.mark.parametrize(("value", "named"), [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_a_broken_factor_is_refused_with_its_node_and_name(value, named, as_constant):
    model = _model(_with(value), SOUND[0], as_constant=as_constant)
    with pytest.raises(ModelError, match=f"node product has {named} in w"):
        source.check_model(model, PROFILE)


def test_infinity_in_a_mask_is_what_masks_are_for():
    source.check_model(_model(SOUND, _with(-np.inf)[1]), PROFILE)


def test_nan_is_refused_even_in_a_mask():
    with pytest.raises(ModelError, match="node masking has NaN in mask"):
        source.check_model(_model(SOUND, _with(np.nan)[1]), PROFILE)


def test_a_weight_that_a_branch_takes_from_outside_is_found():
    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", "w"], [name], f"{name}_product")
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])
        return helper.make_graph([node], name, [], [out])

    choice = helper.make_node(
        "If", ["flag"], ["y"], "choice", then_branch=branch("yes"), else_branch=branch("no")
    )
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, [1]),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    weight = numpy_helper.from_array(_with(np.nan), "w")
    graph = helper.make_graph([choice], "tiny", inputs, [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(ModelError, match="node no_product has NaN in w; node yes_product"):
        source.check_model(model, PROFILE)

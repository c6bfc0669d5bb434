"""Estimates of latency: which of the two limits counts, and what is said where one is unknown."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.conversion.costs import Cost
from edge.conversion.roofline import kernels, latencies
from edge.conversion.sizing import Skeleton
from edge.core.profile import Compute, Device, DeviceProfile, Memory, Onnx, Precision, Runtimes


def _profile(rates: dict[str, dict[str, float]], gb_per_s: float = 0.0) -> DeviceProfile:
    return DeviceProfile(
        name="board",
        device=Device(title="A board"),
        compute=Compute(engines=("gpu", "dla", "cpu"), peak_tops=rates),
        memory=Memory(gb_per_s=gb_per_s),
        onnx=Onnx(opset=17, ir=8),
        precision=Precision(legal=("fp32", "fp16", "int8")),
        runtimes=Runtimes(order=("onnxruntime",)),
    )


BUSY = [Cost(flops=4e9, moved=1_000_000)]
IDLE = [Cost(flops=1e6, moved=8_000_000)]
RATES = {"gpu": {"fp16": 2.0, "int8": 4.0}}


def test_the_slower_of_operations_and_bytes_counts_for_each_kernel():
    profile = _profile(RATES, gb_per_s=1.0)
    (both,) = latencies([*BUSY, *IDLE], profile, "fp16")
    assert (both.unit, both.basis) == ("gpu", "roofline")
    assert both.ms == pytest.approx(2.0 + 8.0)


def test_each_part_of_the_chip_has_its_own_estimate_the_fastest_first():
    found = latencies(BUSY, _profile({"dla": {"int8": 1.0}, **RATES}, gb_per_s=1000), "int8")
    assert [(estimate.unit, estimate.ms) for estimate in found] == [("gpu", 1.0), ("dla", 4.0)]


def test_without_a_peak_rate_the_bytes_alone_are_a_bound_and_it_says_so():
    (found,) = latencies(IDLE, _profile(RATES, gb_per_s=1.0), "fp32")
    assert (found.unit, found.ms, found.basis) == ("", 8.0, "bytes alone")
    assert "no peak rate" in found.why


def test_without_a_bandwidth_the_operations_alone_are_a_bound_and_it_says_so():
    (found,) = latencies(BUSY, _profile(RATES), "fp16")
    assert (found.ms, found.basis) == (2.0, "operations alone")
    assert "no memory bandwidth" in found.why


def test_nothing_is_guessed_where_nothing_is_known():
    (found,) = latencies(BUSY, _profile({}), "fp16")
    assert (found.ms, found.basis) == (None, "unknown")


def _moved(nodes, outputs, channels: int = 4) -> list[int]:  # type: ignore[no-untyped-def]
    """Bytes by kernel, in units of one tensor; a weight is far smaller than one."""
    weight = numpy_helper.from_array(np.ones((channels, channels, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 64, 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    scope = Skeleton(model).sizes().scope
    return [round(k.moved / (channels * 64 * 64 * 4)) for k in kernels(scope, "fp32")]


def _conv(read: str, written: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [read, "w"], [written])


def test_an_activation_is_computed_where_its_input_is_made():
    relu = helper.make_node("Relu", ["a"], ["b"])
    assert _moved([_conv("x", "a"), relu, _conv("b", "y")], ["y"]) == [2, 2]


def test_an_activation_of_two_operators_is_too():
    nodes = [
        _conv("x", "a"),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["b"]),
        _conv("b", "y"),
    ]
    assert _moved(nodes, ["y"]) == [2, 2]


def test_a_skip_connection_is_read_where_it_joins():
    nodes = [_conv("x", "a"), _conv("a", "b"), helper.make_node("Add", ["a", "b"], ["y"])]
    assert _moved(nodes, ["y"]) == [2, 3]


def test_what_others_read_is_written_all_the_same():
    relu = helper.make_node("Relu", ["a"], ["b"])
    assert _moved([_conv("x", "a"), relu, _conv("a", "y")], ["y", "b"]) == [3, 2]
    assert _moved([_conv("x", "a"), relu], ["a", "b"]) == [3]

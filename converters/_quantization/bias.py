"""Puts back the mean that rounding the weights takes from each output channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from edge.core.tensor import Array

WEIGHTED = ("Conv", "Gemm")


def correctable(model: ModelProto) -> dict[str, NodeProto]:
    """Convolutions and Gemms of a float model with constant weights and a bias of their own."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in WEIGHTED and len(n.input) == 3]
    biases = [node.input[2] for node in nodes]
    return {
        node.name: node
        for node in nodes
        if node.input[1] in constants
        and node.input[2] in constants
        and biases.count(node.input[2]) == 1
    }


def correct_biases(quantized: ModelProto, model: ModelProto, means: dict[str, Array]) -> int:
    """Shift the biases of ``quantized`` by what its rounded weights make of the mean input.

    Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction".

    Args:
        model: The float model it was made of, with the same node names.
        means: Input tensor of ``model`` -> mean per channel.
    Returns:
        How many layers were corrected.
    """
    np = require("numpy", extra="convert")
    original = _constants(model)
    constants = _constants(quantized)
    makers = {output: node for node in quantized.graph.node for output in node.output}
    floats = correctable(model)
    corrected = 0
    for node in quantized.graph.node:
        source = floats.get(node.name)
        if source is None or source.input[0] not in means or len(node.input) < 3:
            continue
        weight = _stored(node.input[1], makers, constants)
        bias = _stored(node.input[2], makers, constants)
        if weight is None or bias is None or weight.scale is None:
            continue
        lost = _values(original[source.input[1]]).astype(np.float64) - weight.floats()
        shift = _response(source, lost, means[source.input[0]])
        bias.add(shift)
        corrected += 1
    return corrected


class _Stored(NamedTuple):
    """A constant and, when it is quantized, what turns it into floats."""

    tensor: TensorProto
    scale: Array | None
    zero_point: Array | int
    axis: int

    def floats(self) -> Any:
        values = _values(self.tensor).astype("float64")
        if self.scale is None:
            return values
        return (values - self._spread(self.zero_point)) * self._spread(self.scale)

    def add(self, shift: Array) -> None:
        """Add ``shift`` to a bias, in its own type."""
        np = require("numpy", extra="convert")
        onnx = require("onnx", extra="convert")
        values = _values(self.tensor)
        if self.scale is None:
            moved = (values + shift).astype(values.dtype)
        else:
            steps = np.round(shift / self.scale.astype(np.float64).reshape(-1))
            limits = np.iinfo(values.dtype)
            moved = np.clip(values + steps, limits.min, limits.max).astype(values.dtype)
        self.tensor.CopyFrom(onnx.numpy_helper.from_array(moved, self.tensor.name))

    def _spread(self, values: Array | int) -> Any:
        np = require("numpy", extra="convert")
        array = np.asarray(values, np.float64)
        if array.size == 1:
            return array.reshape(())
        return array.reshape([-1 if d == self.axis else 1 for d in range(len(self.tensor.dims))])


def _stored(
    name: str, makers: dict[str, NodeProto], constants: dict[str, TensorProto]
) -> _Stored | None:
    if name in constants:
        return _Stored(constants[name], None, 0, 0)
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in constants:
        return None
    zero = _values(constants[node.input[2]]) if len(node.input) > 2 else 0
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return _Stored(constants[node.input[0]], _values(constants[node.input[1]]), zero, axis)


def _response(node: NodeProto, weights: Array, mean: Array) -> Any:
    """Mean output per channel of a layer with ``weights`` for inputs of ``mean``, borders aside."""
    np = require("numpy", extra="convert")
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Gemm":
        alpha = attributes["alpha"].f if "alpha" in attributes else 1.0
        is_transposed = "transB" in attributes and attributes["transB"].i == 1
        return alpha * (weights @ mean if is_transposed else mean @ weights)
    groups = attributes["group"].i if "group" in attributes else 1
    kernels = weights.reshape(*weights.shape[:2], -1).sum(axis=2)
    by_group = kernels.reshape(groups, -1, kernels.shape[1])
    return np.einsum("goi,gi->go", by_group, mean.reshape(groups, -1)).reshape(-1)


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _values(tensor: TensorProto) -> Array:
    onnx = require("onnx", extra="convert")
    values: Array = onnx.numpy_helper.to_array(tensor)
    return values

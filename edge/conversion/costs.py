"""Floating-point operations and bytes moved, node by node.

A multiply-add counts as 2. Of operators that are not known here the bytes alone are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from edge.conversion.graph import STANDARD_DOMAINS
from edge.conversion.sizing import Scope, Value, Width, view_of

if TYPE_CHECKING:
    from onnx import NodeProto


class Operands(NamedTuple):
    """A node with the values it reads and writes; nothing stands for one that is not given."""

    node: NodeProto
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]

    def shape(self, index: int) -> tuple[int, ...]:
        """Of an input. Raises ``LookupError`` where it is not known."""
        value = self.inputs[index]
        if value is None:
            raise LookupError(f"the shape of input {index} is not known")
        return value.shape

    def written(self) -> int:
        """Elements of the first output."""
        value = self.outputs[0]
        if value is None:
            raise LookupError("the shape of the output is not known")
        return value.elements

    def has(self, index: int) -> bool:
        return len(self.node.input) > index and self.node.input[index] != ""


class Cost(NamedTuple):
    """``flops`` counts a multiply-add as 2; ``moved`` is in bytes."""

    flops: float
    moved: int


def node_cost(scope: Scope, index: int, width: Width) -> Cost:
    """Cost of the node, of the dearest of its branches if it has some."""
    node = scope.nodes[index]
    operands = _operands(scope, node)
    inner = [graph_cost(branch, width) for branch in scope.branches.get(index, ())]
    # A loop's body is counted once: how often it runs is not known before.
    dearest = max(inner, default=Cost(0, 0))
    return Cost(
        flops=flops(operands) + dearest.flops,
        moved=moved(scope, node, width) + dearest.moved,
    )


def graph_cost(scope: Scope, width: Width) -> Cost:
    costs = [node_cost(scope, index, width) for index in range(len(scope.nodes))]
    return Cost(sum(cost.flops for cost in costs), sum(cost.moved for cost in costs))


def flops(operands: Operands) -> float:
    """Operations of one node; 0 for one that only moves data, or is not known."""
    count = _FLOPS.get(operands.node.op_type)
    try:
        return float(count(operands)) if count else 0.0
    except (LookupError, ValueError):
        return 0.0  # a shape is not known, which the list of unknown values says


def moved(scope: Scope, node: NodeProto, width: Width) -> int:
    """Bytes read and written by a node that runs on its own."""
    if view_of(node) or node.op_type in _FREE:
        return 0
    written = sum(bytes_of(scope, name, width) for name in node.output)
    if node.op_type in _PICKS:  # reads of its first input what it writes, and no more
        return 2 * written + sum(bytes_of(scope, name, width) for name in node.input[1:])
    return written + sum(bytes_of(scope, name, width) for name in dict.fromkeys(node.input))


def bytes_of(scope: Scope, name: str, width: Width) -> int:
    value = scope.values.get(name)
    is_weight = name in scope.weights
    return value.size(width.weights if is_weight else width.activations) if value else 0


def _operands(scope: Scope, node: NodeProto) -> Operands:
    return Operands(
        node,
        tuple(scope.values.get(name) for name in node.input),
        tuple(scope.values.get(name) for name in node.output),
    )


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _text(node: NodeProto, name: str, default: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == name), default)


def _convolution(operands: Operands, weight: int = 1, bias: int = 2) -> float:
    """Every output is a product over the kernel and the channels of one group."""
    per_output = 2 * math.prod(operands.shape(weight)[1:])
    return operands.written() * (per_output + operands.has(bias))


def _transposed_convolution(operands: Operands) -> float:
    """Every input is spread over the kernel and the output's channels of one group."""
    spread = 2 * math.prod(operands.shape(1)[1:])
    return math.prod(operands.shape(0)) * spread + operands.has(2) * operands.written()


def _gemm(operands: Operands) -> float:
    depth = operands.shape(0)[0 if _attribute(operands.node, "transA", 0) else 1]
    return operands.written() * (2 * depth + operands.has(2))


def _product(operands: Operands) -> float:
    return 2.0 * operands.written() * operands.shape(0)[-1]


def _einsum(operands: Operands) -> float:
    """Every combination of indices is one multiply-add per factor but the first."""
    terms = _text(operands.node, "equation", "").replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = operands.shape(index)
        if "." in term:
            raise LookupError("an ellipsis has no sizes of its own")
        sizes.update(zip(term, shape, strict=True))
    return math.prod(sizes.values()) * 2.0 * max(1, len(terms) - 1)


def _attention(operands: Operands) -> float:
    """Query times key, and that times value; heads are an axis of their own, or side by side."""
    if operands.node.domain not in STANDARD_DOMAINS:
        raise LookupError("an operator of this name from elsewhere takes other inputs")
    query, key, value = operands.shape(0), operands.shape(1), operands.shape(2)
    if len(query) == 4:
        return 2.0 * math.prod(query[:3]) * key[2] * (query[3] + value[3])
    heads, key_heads = (_attribute(operands.node, f"{name}_num_heads", 1) for name in ("q", "kv"))
    return 2.0 * math.prod(query[:2]) * key[1] * (query[2] + heads * value[2] / key_heads)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_POINTWISE_PER_CELL = {"LSTM": 9, "GRU": 9, "RNN": 1}


def _recurrent(operands: Operands) -> float:
    """Two products per step and direction, biases, gates; X, W, R are the first inputs."""
    kind = operands.node.op_type
    steps, batch, features = operands.shape(0)
    directions, rows, _ = operands.shape(1)
    hidden = rows // GATES[kind]
    products = 2 * rows * (features + hidden) + 2 * rows * operands.has(3)
    return steps * batch * directions * (products + hidden * _POINTWISE_PER_CELL[kind])


def _pool(operands: Operands) -> float:
    kernel = next((a.ints for a in operands.node.attribute if a.name == "kernel_shape"), ())
    return operands.written() * math.prod(kernel)


def _resize(operands: Operands) -> float:
    """A weighted sum of 2 or 4 neighbours along every axis whose size changes."""
    taps = {"linear": 2, "cubic": 4}.get(_text(operands.node, "mode", "nearest"))
    if taps is None:
        return 0.0
    written = operands.outputs[0]
    sizes = zip(operands.shape(0), written.shape if written else (), strict=False)
    changed = sum(before != after for before, after in sizes)
    return operands.written() * (2 * taps**changed - 1) if changed else 0.0


def _read(operands: Operands) -> float:
    """One operation for every element of the first input, as in a sum over it."""
    return math.prod(operands.shape(0))


def _each(times: int) -> Callable[[Operands], float]:
    """Operations for every element written."""
    return lambda operands: times * operands.written()


def _between(operands: Operands) -> float:
    """An operation between any number of inputs, element by element."""
    return max(1, len(operands.node.input) - 1) * operands.written()


def _by_operator(
    groups: Mapping[str, Callable[[Operands], float]],
) -> dict[str, Callable[[Operands], float]]:
    return {name: count for names, count in groups.items() for name in names.split()}


_FLOPS = _by_operator(
    {
        "Conv ConvInteger FusedConv": _convolution,
        "DeformConv": lambda operands: _convolution(operands, bias=3),
        "QLinearConv": lambda operands: _convolution(operands, weight=3, bias=8),
        "ConvTranspose": _transposed_convolution,
        "Gemm FusedGemm": _gemm,
        "MatMul MatMulInteger FusedMatMul QLinearMatMul": _product,
        "Einsum": _einsum,
        "Attention": _attention,
        "LSTM GRU RNN": _recurrent,
        "MaxPool AveragePool LpPool": _pool,
        "GlobalAveragePool GlobalMaxPool GlobalLpPool CumSum ArgMax ArgMin TopK": _read,
        "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd": _read,
        "ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp": _read,
        "Resize Upsample": _resize,
        "Sum Max Min Mean": _between,
        "Add Sub Mul Div Pow Mod PRelu And Or Xor Equal Greater Less Where": _each(1),
        "GreaterOrEqual LessOrEqual BitShift BitwiseAnd BitwiseOr BitwiseXor": _each(1),
        "Abs Neg Sign Not Ceil Floor Round Sqrt Reciprocal Exp Log Erf Relu LeakyRelu": _each(1),
        "Clip Sigmoid Tanh Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh": _each(1),
        "ThresholdedRelu Elu Selu Celu Softplus Softsign IsNaN IsInf BitwiseNot": _each(1),
        "QuantizeLinear DequantizeLinear BatchNormalization HardSigmoid": _each(2),
        "HardSwish Swish Shrink": _each(3),
        "Softmax LogSoftmax Hardmax Mish Gelu": _each(5),
        "LayerNormalization InstanceNormalization GroupNormalization": _each(8),
        "RMSNormalization SimplifiedLayerNormalization MeanVarianceNormalization": _each(6),
    }
)

_FREE = frozenset({"Shape", "Size", "Constant", "If", "Loop", "Scan"})
_PICKS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})

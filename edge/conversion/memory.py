"""Peak memory of a graph, by which of its values are alive at the same time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from edge.conversion.costs import GATES
from edge.conversion.graph import label
from edge.conversion.report import MemoryEstimate, MemoryStep
from edge.conversion.sizing import WIDTHS, Scope, Skeleton, Value, view_of
from edge.core.profile import load_profile

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LARGEST_BATCH = 1 << 12
"""No larger batch is looked at."""

# Engines write the result of these over an input that nobody needs any more, or compute them in
# the kernel of the operator before.
POINTWISE = frozenset(
    """
    Abs Add And Acos Asin Atan BatchNormalization BiasGelu Ceil Celu Clip Cos Div Dropout Elu Erf
    Exp FastGelu Floor Gelu HardSigmoid HardSwish LeakyRelu Log Max Min Mish Mod Mul Neg Not Or
    PRelu Pow QuickGelu Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum
    Swish Tan Tanh ThresholdedRelu
    """.split()  # noqa: SIM905
)


class Peak(NamedTuple):
    """Estimated bytes. ``activations`` is the most of them alive at once."""

    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations


def memory_estimate(model: ModelProto) -> MemoryEstimate:
    """Weights and live activations of a model in FP32 with a batch of one.

    Without what the engine itself takes, and the scratch space of its kernels. Values whose size
    can not be told count as nothing.
    """
    scope = Skeleton(model).sizes().scope
    steps = tuple(_steps(scope, WIDTHS["fp32"].activations))
    peak = _peak(scope, steps, WIDTHS["fp32"].weights)
    return MemoryEstimate(weight_bytes=peak.weights, peak_bytes=peak.total, steps=steps)


def peak_memory(scope: Scope, precision: str) -> Peak:
    """Estimate for floats of ``precision``, without the engine's own memory."""
    width = WIDTHS[precision]
    return _peak(scope, _steps(scope, width.activations), width.weights)


def here_bytes() -> float:
    """Memory of this machine; infinite where the system does not say."""
    return load_profile("host").memory.bytes or math.inf


def largest_batch(skeleton: Skeleton, precision: str, device_bytes: int) -> int:
    """The largest power of two, up to ``LARGEST_BATCH``, that fits; 0 if none does."""
    lowest, highest = 0, LARGEST_BATCH.bit_length()
    while lowest < highest:  # the exponent, by halving
        middle = (lowest + highest) // 2
        if peak_memory(skeleton.sizes(1 << middle).scope, precision).total <= device_bytes:
            lowest = middle + 1
        else:
            highest = middle
    return 1 << (lowest - 1) if lowest else 0


def _peak(scope: Scope, steps: Iterable[MemoryStep], width: float) -> Peak:
    weights = sum(value.size(width) for part in scope.walk() for value in part.weights.values())
    return Peak(weights, max((step.live_bytes for step in steps), default=0))


def _steps(scope: Scope, width: float) -> Iterator[MemoryStep]:
    """Bytes alive at each node.

    Inputs belong to the caller and live throughout, outputs from their node to the end.
    """
    roots = owners(scope)
    last = _last_uses(scope, roots)
    dies_at: dict[int, list[str]] = {}
    for root, index in last.items():
        dies_at.setdefault(index, []).append(root)
    alive: dict[str, int] = {}
    live = sum(_bytes(scope.values.get(name), width) for name in scope.inputs)
    for index, node in enumerate(scope.nodes):
        made = {
            name: _bytes(scope.values.get(name), width)
            for name in node.output
            if roots[name] == name
        }
        reused = _overwritten(node, roots, alive, made, dies_at.get(index, []))
        if reused:
            live -= alive.pop(reused)
        alive.update(made)
        live += sum(made.values())
        inner = _scratch(scope, node, width)
        inner += max((_inner(b, width) for b in scope.branches.get(index, ())), default=0)
        yield MemoryStep(label(node), node.op_type, live + inner)
        unused = [name for name in made if name not in last]
        live -= sum(alive.pop(name, 0) for name in (*dies_at.get(index, []), *unused))


def _scratch(scope: Scope, node: NodeProto, width: float) -> int:
    """Recurrent layers multiply their input for all steps at once, and keep that for the gates."""
    if node.op_type not in GATES:
        return 0
    sequence, weights = (scope.values.get(name) for name in node.input[:2])
    if sequence is None or weights is None or (len(sequence.shape), len(weights.shape)) != (3, 3):
        return 0
    steps, batch, _ = sequence.shape
    return sequence._replace(shape=(steps, batch, weights.shape[1])).size(width)


def _inner(branch: Scope, width: float) -> int:
    return max((step.live_bytes for step in _steps(branch, width)), default=0)


def owners(scope: Scope) -> dict[str, str]:
    """Value that a node writes -> the value whose memory it is in: another one's for a view."""
    roots: dict[str, str] = {}
    for node in scope.nodes:
        viewed = view_of(node)
        for name in node.output:
            roots[name] = roots.get(viewed, viewed) if viewed and name == node.output[0] else name
    return roots


def _last_uses(scope: Scope, roots: dict[str, str]) -> dict[str, int]:
    """Value that has memory -> index of the last node that reads it, in branches as well."""
    last: dict[str, int] = {}
    for index, node in enumerate(scope.nodes):
        inner = [name for b in scope.branches.get(index, ()) for name in _captured(b)]
        for name in (*node.input, *inner):
            last[roots.get(name, name)] = index
    for name in (*scope.inputs, *scope.outputs):
        last[roots.get(name, name)] = len(scope.nodes)
    return last


def _captured(scope: Scope) -> Iterator[str]:
    """What a branch reads or gives back; names that are its own do no harm."""
    yield from scope.outputs
    for part in scope.walk():
        for node in part.nodes:
            yield from node.input


def _overwritten(
    node: NodeProto,
    roots: dict[str, str],
    alive: dict[str, int],
    made: dict[str, int],
    dying: list[str],
) -> str | None:
    """The input, read here for the last time, whose memory the output takes over."""
    if node.op_type not in POINTWISE or len(made) != 1:
        return None
    (size,) = made.values()
    candidates = (roots.get(name, name) for name in node.input)
    return next((r for r in candidates if r in dying and alive.get(r, -1) == size), None)


def _bytes(value: Value | None, width: float) -> int:
    return value.size(width) if value else 0

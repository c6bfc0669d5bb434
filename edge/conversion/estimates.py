"""Whether a model fits a device and about how fast it runs there, without the device at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edge.conversion.costs import node_cost
from edge.conversion.graph import label
from edge.conversion.memory import largest_batch, peak_memory
from edge.conversion.roofline import LatencyEstimate, kernels, latencies
from edge.conversion.sizing import WIDTHS, Sizes, Skeleton
from edge.core.profile import DeviceProfile

if TYPE_CHECKING:
    from onnx import ModelProto


class NodeCost(msgspec.Struct, frozen=True):
    """What one node costs in FP32; ``moved_bytes`` as if it ran on its own."""

    name: str
    op: str
    flops: float
    moved_bytes: int


class ModelCosts(msgspec.Struct, frozen=True):
    """Of one inference: a batch of 1 where it is dynamic. A multiply-add counts as 2.

    ``assumed`` has the sizes that were made up for dynamic axes other than the batch, ``unknown``
    the values of no known size, which count as nothing.
    """

    parameters: int
    flops: float
    assumed: dict[str, int]
    unknown: tuple[str, ...]
    nodes: tuple[NodeCost, ...]


class PrecisionEstimate(msgspec.Struct, frozen=True):
    """One inference, as if every float had ``precision``, without what the engine itself takes.

    ``largest_batch`` is a power of two; nothing where the batch is fixed, or the memory unknown.
    """

    precision: str
    weight_bytes: int
    peak_bytes: int
    moved_bytes: int
    fits: bool | None
    largest_batch: int | None
    latencies: tuple[LatencyEstimate, ...]


class Estimator:
    """Looks at one model for any number of devices."""

    def __init__(self, model: ModelProto) -> None:
        self._skeleton = Skeleton(model)
        self.sizes: Sizes = self._skeleton.sizes()

    def costs(self) -> ModelCosts:
        scope = self.sizes.scope
        costs = [node_cost(scope, index, WIDTHS["fp32"]) for index in range(len(scope.nodes))]
        return ModelCosts(
            parameters=sum(v.elements for part in scope.walk() for v in part.weights.values()),
            flops=sum(cost.flops for cost in costs),
            assumed=self.sizes.assumed,
            unknown=self.sizes.unknown,
            nodes=tuple(
                NodeCost(label(node), node.op_type, cost.flops, cost.moved)
                for node, cost in zip(scope.nodes, costs, strict=True)
            ),
        )

    def precisions(self, profile: DeviceProfile) -> tuple[PrecisionEstimate, ...]:
        """One estimate for each precision that is legal on the device, the widest first."""
        legal = [name for name in WIDTHS if name in profile.precision.legal]
        return tuple(self._precision(name, profile) for name in legal)

    def _precision(self, name: str, profile: DeviceProfile) -> PrecisionEstimate:
        peak = peak_memory(self.sizes.scope, name)
        costs = kernels(self.sizes.scope, name)
        room = available_bytes(profile)
        return PrecisionEstimate(
            precision=name,
            weight_bytes=peak.weights,
            peak_bytes=peak.total,
            moved_bytes=sum(cost.moved for cost in costs),
            fits=peak.total <= room if room else None,
            largest_batch=(
                largest_batch(self._skeleton, name, room)
                if room and self.sizes.batch is not None
                else None
            ),
            latencies=latencies(costs, profile, name),
        )


def available_bytes(profile: DeviceProfile) -> int:
    """Memory of the device without what its system keeps; 0 where it is not known."""
    return max(0, profile.memory.bytes - profile.memory.os_bytes)

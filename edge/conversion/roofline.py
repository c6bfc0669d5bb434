"""How long an inference takes at best: the roofline of a device, no measurement.

For every kernel the longer of two times: of its operations at the peak rate, and of its bytes at
the rate of the memory. The sum is what a perfect engine would need; a real one needs more.

Measured against it, at batch 1: ResNet-50 in INT8 takes 1.9 times this on a Jetson Orin NX and 2.4
on an AGX Orin (MLPerf 3.1, SingleStream); seven convolutional networks in FP32 on one x86 core,
with that core's own rates, 1.0 to 1.9 times; a GRU, whose steps wait for each other, 3 times in
ONNX Runtime and 11 in OpenVINO.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.conversion.costs import Cost, bytes_of, node_cost
from edge.conversion.memory import POINTWISE, owners
from edge.conversion.sizing import WIDTHS, Scope, view_of
from edge.core.profile import DeviceProfile

Basis = Literal["roofline", "bytes alone", "operations alone", "unknown"]


class LatencyEstimate(msgspec.Struct, frozen=True):
    """``unit`` is the part of the chip whose peak rate was taken, empty where none is known.

    ``basis`` says what ``ms`` is: an estimate by roofline, or less than that: a lower bound by what
    of the device is known. ``why`` says what is not.
    """

    unit: str
    ms: float | None
    basis: Basis
    why: str = ""


def latencies(
    kernels: list[Cost], profile: DeviceProfile, precision: str
) -> tuple[LatencyEstimate, ...]:
    """One estimate for each part of the chip that has a peak rate, the fastest first; else one."""
    bandwidth = profile.memory.gb_per_s * 1e9
    peaks = {unit: rates.get(precision, 0) for unit, rates in profile.compute.peak_tops.items()}
    known = {unit: rate * 1e12 for unit, rate in peaks.items() if rate}
    if not known:
        return (_without_peak(kernels, bandwidth),)
    found = [_with_peak(kernels, unit, rate, bandwidth) for unit, rate in known.items()]
    return tuple(sorted(found, key=lambda estimate: estimate.ms or 0))


def _with_peak(kernels: list[Cost], unit: str, rate: float, bandwidth: float) -> LatencyEstimate:
    seconds = sum(max(k.flops / rate, k.moved / bandwidth if bandwidth else 0) for k in kernels)
    if bandwidth:
        return LatencyEstimate(unit, seconds * 1000, "roofline")
    return LatencyEstimate(
        unit, seconds * 1000, "operations alone", "the profile has no memory bandwidth"
    )


def _without_peak(kernels: list[Cost], bandwidth: float) -> LatencyEstimate:
    why = "the profile has no peak rate"
    if not bandwidth:
        return LatencyEstimate("", None, "unknown", f"{why} and no memory bandwidth")
    moved = sum(kernel.moved for kernel in kernels)
    return LatencyEstimate("", moved / bandwidth * 1000, "bytes alone", why)


def kernels(scope: Scope, precision: str) -> list[Cost]:
    """Costs of the kernels that a good engine makes of the nodes.

    Element-wise operators are computed in the kernel that made their input, so that what lies
    between them is neither written nor read.
    """
    width = WIDTHS[precision]
    roots = owners(scope)
    kernel_of = _kernel_of(scope)
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(scope.nodes):
        if not view_of(node):
            for name in dict.fromkeys(node.input):
                readers.setdefault(roots.get(name, name), []).append(kernel_of[index])
    for name in scope.outputs:
        readers.setdefault(roots.get(name, name), []).append(_CALLER)
    costs: dict[int, list[Cost]] = {}
    for index, node in enumerate(scope.nodes):
        kernel, cost = kernel_of[index], node_cost(scope, index, width)
        spared = 0
        for name in node.output:
            reading = readers.get(name, [])
            inside = reading.count(kernel)
            is_written = inside < len(reading) or not inside
            spared += bytes_of(scope, name, width) * (inside + (not is_written))
        costs.setdefault(kernel, []).append(Cost(cost.flops, cost.moved - spared))
    return [Cost(sum(c.flops for c in of), sum(c.moved for c in of)) for of in costs.values()]


_CALLER = -1


def _kernel_of(scope: Scope) -> list[int]:
    """For each node the index of the first one in its kernel."""
    kernel_of: list[int] = []
    makers: dict[str, int] = {}
    for index, node in enumerate(scope.nodes):
        made = [makers[name] for name in node.input if name in makers]
        joins = made and (view_of(node) or node.op_type in POINTWISE)
        kernel_of.append(max(made) if joins else index)
        makers.update(dict.fromkeys(node.output, kernel_of[-1]))
    return kernel_of

"""The build plan of a graph: shapes, workspace, and what the builder is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge.core.build import BuildPlan, ShapeRange
from edge.core.errors import InputError
from edge.core.profile import DeviceProfile
from edge.core.spec import BuildSpec

if TYPE_CHECKING:
    from edge.core.tensor import Feeds, TensorSpec

WITHOUT_DLA = (10, 7), (11, 4)
"""The last version that had it, and the first that has it again."""

STRONG_TYPING = (10,)
"""The first major version whose networks take their types from the graph."""


def lowest_version(profile: DeviceProfile) -> tuple[int, ...]:
    """The oldest TensorRT that the profile's devices have; empty where it is not said."""
    match = re.search(r">=\s*([\d.]+)", profile.software.tensorrt)
    return tuple(int(part) for part in match[1].split(".") if part) if match else ()


def is_strongly_typed(profile: DeviceProfile) -> bool:
    return not lowest_version(profile) or lowest_version(profile) >= STRONG_TYPING


def required_version(profile: DeviceProfile) -> str:
    """The versions that take the graph: all later ones, but for those that lost its typing."""
    lowest = ".".join(map(str, lowest_version(profile))) or "10.0"
    return f">={lowest}" if is_strongly_typed(profile) else f">={lowest},<11"


def plan_for(
    inputs: Sequence[TensorSpec],
    seen: Sequence[Feeds],
    profile: DeviceProfile,
    build: BuildSpec,
    flags: tuple[str, ...],
) -> BuildPlan:
    """Plan the build of a graph with ``inputs``, of which ``seen`` are samples.

    Raises:
        InputError: An axis is dynamic and no sample says how long it gets, or the device has no
            such accelerator.
    """
    if build.dla is not None:
        _ensure_dla(profile)
    return BuildPlan(
        shapes={spec.name: _range(spec, seen, build) for spec in inputs if not spec.is_static},
        workspace_bytes=build.workspace_mb * 2**20,
        is_strongly_typed=is_strongly_typed(profile),
        flags=flags,
        tensorrt=profile.software.tensorrt,
        dla_core=build.dla,
        is_sparse=build.sparse,
        is_refittable=build.refit,
    )


def _ensure_dla(profile: DeviceProfile) -> None:
    if "dla" not in profile.compute.engines:
        has = ", ".join(profile.compute.engines)
        raise InputError(f"{profile.name} has no DLA", hint=f"it has {has}")
    if WITHOUT_DLA[0] < lowest_version(profile)[:2] < WITHOUT_DLA[1]:
        raise InputError(
            f"TensorRT {profile.software.tensorrt} of {profile.name} has no DLA",
            hint="take the GPU, or another release of JetPack",
        )


def _range(spec: TensorSpec, seen: Sequence[Feeds], build: BuildSpec) -> ShapeRange:
    """A first axis that is dynamic is the batch; of others, samples say how long they get."""
    axes: list[tuple[int, int, int]] = []
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, int):
            axes.append((dim, dim, dim))
        elif axis == 0:
            axes.append((1, 1, build.max_batch))
        else:
            lengths = sorted(feeds[spec.name].shape[axis] for feeds in seen)
            if not lengths:
                raise InputError(
                    f"TensorRT has to know how long axis {dim!r} of input {spec.name!r} gets",
                    hint=f"add samples with --calib, or fix the shape with --shape {spec.name}=…",
                )
            axes.append((lengths[0], lengths[len(lengths) // 2], lengths[-1]))
    low, middle, high = zip(*axes, strict=True)
    return ShapeRange(low, middle, high)

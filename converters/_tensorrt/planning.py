"""The build plan of a graph: shapes, workspace, and what the builder is allowed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge.core.build import BuildPlan, ShapeRange
from edge.core.contracts import ConvertRequest
from edge.core.errors import InputError
from edge.core.profile import DeviceProfile
from edge.core.spec import BuildSpec

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.core.tensor import Feeds, TensorSpec

REFITTABLE = ("fp32", "bf16", "fp16")
"""Precisions whose weights can change in an engine; scales and quantized weights are part of it."""

REFITTED = (1, 10, 16)
"""``TensorProto.DataType``: FLOAT, FLOAT16, BFLOAT16. Scalars and integers shape the graph."""

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
    model: ModelProto,
    inputs: Sequence[TensorSpec],
    seen: Sequence[Feeds],
    request: ConvertRequest,
) -> BuildPlan:
    """Plan the build of ``model``, a finished graph whose ``inputs`` take samples like ``seen``.

    Raises:
        InputError: An axis is dynamic and no sample says how long it gets, or the device has no
            such accelerator.
    """
    profile, build = request.profile, request.build
    if build.dla is not None:
        _ensure_dla(profile)
    is_refittable = build.refit and request.precision in REFITTABLE
    return BuildPlan(
        shapes={spec.name: _range(spec, seen, build) for spec in inputs if not spec.is_static},
        workspace_bytes=build.workspace_mb * 2**20,
        is_strongly_typed=is_strongly_typed(profile),
        flags=_flags(request.precision, profile.precision.legal),
        tensorrt=profile.software.tensorrt,
        dla_core=build.dla,
        is_sparse=build.sparse,
        is_refittable=is_refittable,
        structure=structure_of(model) if is_refittable else "",
    )


def _flags(precision: str, legal: Sequence[str]) -> tuple[str, ...]:
    """The precisions that a builder without strong typing has to be allowed."""
    wanted = {"fp32": (), "fp16": ("fp16",), "bf16": ("bf16",)}
    flags = wanted.get(precision, (precision, "fp16"))
    return tuple(name for name in flags if name in legal)


def structure_of(model: ModelProto) -> str:
    """A digest of all but the values of the weights, which a refittable engine gets later."""
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type in REFITTED and len(tensor.dims):
            for field in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()


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

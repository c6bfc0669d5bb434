"""How a device makes an engine of a portable graph, once: the plan that travels with the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from edge.core.errors import EngineError

if TYPE_CHECKING:
    from edge.core.manifest import Variant
    from edge.core.profile import DeviceProfile

PLAN_FILE = "plan.json"

WORKSPACE_SHARE = 8
"""A builder may take this part of the device's memory, if the plan says no more: on 8 GB boards
builds without a bound run out of memory (https://github.com/NVIDIA/TensorRT/issues/3355)."""

Progress = Callable[[str, float], None]
"""Called with the phase of a build and the share of it that is done, 0..1."""


class ShapeRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shapes that an input may have, and the one that the engine is tuned for."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


class BuildPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the builder is told; precision is written in the graph.

    ``flags`` are the precisions in the graph, which a builder without strong typing has to be
    allowed (``fp16``, ``int8``). ``workspace_bytes`` is 0 for a share of the device's memory.
    ``tensorrt`` is the range of versions on the device that the plan was made for. ``structure`` is
    a digest of the graph without its weights, by which a refittable engine is known.
    """

    shapes: dict[str, ShapeRange] = {}
    workspace_bytes: Annotated[int, Meta(ge=0)] = 0
    is_strongly_typed: bool = True
    flags: tuple[str, ...] = ()
    tensorrt: str = ""
    dla_core: Annotated[int, Meta(ge=0)] | None = None
    is_sparse: bool = False
    is_refittable: bool = False
    has_timing_cache: bool = True
    structure: str = ""


class EngineBuild(msgspec.Struct, frozen=True):
    """An engine on this machine's disk, and how it came there."""

    path: Path
    size_bytes: int
    seconds: float
    was_there: bool
    notes: tuple[str, ...] = ()


@runtime_checkable
class EngineBuilder(Protocol):
    """What a backend has besides, if it has to make an engine before it can run a variant.

    Its ``open`` builds what is not built.
    """

    def is_built(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> bool:
        """Whether ``open`` would find an engine that is whole and fits; never raises."""
        ...

    def build(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> EngineBuild:
        """Make the engine, or find the one that was made before.

        Raises:
            UnavailableError: There is no device or no room.
            EngineError: The engine can't be built.
        """
        ...


def read_plan(folder: Path) -> BuildPlan:
    """The plan beside a portable graph.

    Raises:
        EngineError: It is missing or not valid.
    """
    path = folder / PLAN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=BuildPlan)
    except OSError as error:
        raise EngineError(f"can not read {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise EngineError(
            f"{path} is not a build plan: {error}", hint="convert the model again"
        ) from error

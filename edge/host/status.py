"""What a runtime says of its models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from edge.core.contracts import Placement, WorkerStatus
from edge.host.building import BuildProgress
from edge.host.costs import Cost
from edge.host.statistics import Snapshot

if TYPE_CHECKING:
    from edge.host.model import Model

State = Literal["staged", "loading", "building", "warming", "ready", "idle", "failed"]


class ModelStatus(msgspec.Struct, frozen=True):
    """What a runtime knows of one of its models.

    ``reason`` says why it failed, or what is built while it, or nothing, serves. What stands
    behind ``digest`` is empty until it was loaded; ``engine`` is the one that runs it.
    ``memory`` is what it takes of it when loaded, ``evictions`` are how often it was unloaded, by
    why. The version that ``is_active`` answers who names none. One that ``is_withdrawn`` answers
    nothing until somebody loads it again. ``worker`` is its process, if it has one for itself.
    """

    name: str
    version: str
    state: State
    reason: str = ""
    is_active: bool = True
    is_withdrawn: bool = False
    path: str = ""
    digest: str = ""
    engine: str = ""
    variant: str = ""
    precision: str = ""
    choice: str = ""
    is_fallback: bool = False
    placement: Placement | None = None
    statistics: Snapshot | None = None
    building: BuildProgress | None = None
    memory: Cost | None = None
    loads: int = 0
    evictions: dict[str, int] = {}
    worker: WorkerStatus | None = None


def with_model(status: ModelStatus, model: Model) -> ModelStatus:
    """``status`` with all that is known once a model was loaded."""
    opened = model.opened
    placement = opened.session.placement
    worker = opened.session.worker_status()
    if worker is not None and worker.failure:
        status = msgspec.structs.replace(status, state="failed", reason=worker.failure)
    return msgspec.structs.replace(
        status,
        engine=opened.candidate.engine,
        variant=opened.variant.id,
        precision=placement.precision,
        choice=opened.choice,
        is_fallback=opened.is_fallback,
        placement=placement,
        statistics=model.snapshot(),
        memory=opened.room.cost if opened.room else None,
        loads=model.seat.loads,
        evictions=dict(model.seat.evictions),
        worker=worker,
    )

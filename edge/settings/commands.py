"""``[commands]``: what an operator may have this device do, over MQTT."""

from __future__ import annotations

from typing import Annotated

import msgspec

_Positive = msgspec.Meta(gt=0)


class Commands(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rights, each off unless switched on, by the names of the verbs; and bounds.

    While all are off, the device listens to no command. ``desired`` lets the operator say once
    which versions are to serve, and at what power. Of commands that ended, up to ``remember`` are
    known again by their ids, for ``remember_days``. At most ``queue`` wait for their turn. A
    command has up to ``max_payload_bytes``, and a picture by ``snapshot`` up to
    ``max_snapshot_bytes``.
    """

    load: bool = False
    unload: bool = False
    activate: bool = False
    roll_back: bool = False
    batching: bool = False
    power: bool = False
    goldens: bool = False
    snapshot: bool = False
    update: bool = False
    desired: bool = False
    queue: Annotated[int, _Positive] = 32
    remember: Annotated[int, _Positive] = 256
    remember_days: Annotated[float, _Positive] = 30.0
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=256, le=1024 * 1024)] = 32 * 1024
    max_snapshot_bytes: Annotated[int, msgspec.Meta(ge=1024, le=8 * 1024 * 1024)] = 1024 * 1024

    def allows(self, right: str) -> bool:
        """Whether a right is on; one that has no name here is off."""
        return getattr(self, right, False) is True

    @property
    def is_any_verb_on(self) -> bool:
        values = msgspec.structs.asdict(self)
        return any(value is True for right, value in values.items() if right != "desired")

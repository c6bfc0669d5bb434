"""``roll-back``: let the version before the active one serve again."""

from __future__ import annotations

import msgspec

from edge.core.errors import EdgeError
from edge.telemetry.commands.verb import Context, Progress, Result, Verb

_FORMER = "former_version"


class RollBack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str


class RollBackVerb(Verb[RollBack]):
    arguments = RollBack

    def run(self, context: Context, arguments: RollBack, progress: Progress) -> Result:
        former = context.runtime.status_of(arguments.model).version
        progress.note(**{_FORMER: former})  # so that a restart amid it takes back no other one
        version = context.runtime.roll_back(arguments.model, f"by command {context.id}")
        return {"version": version, _FORMER: former}

    def proof(self, context: Context, arguments: RollBack) -> Result | None:
        """What was taken back is remembered on the disk, and does not come back by a restart."""
        runtime, former = context.runtime, context.notes.get(_FORMER)
        try:
            active = runtime.status_of(arguments.model).version
            if former is None or active == former:
                return None
            is_rejected = bool(runtime.rejection(arguments.model, former))
        except EdgeError:
            return None
        return {"version": active, _FORMER: former} if is_rejected else None


VERB = RollBackVerb()

"""``activate``: let a version answer who names none, once it has proven right."""

from __future__ import annotations

import msgspec

from edge.core.errors import EdgeError
from edge.telemetry.commands.verb import Context, Progress, Result, Verb


class Activate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    version: str


class ActivateVerb(Verb[Activate]):
    arguments = Activate

    def run(self, context: Context, arguments: Activate, progress: Progress) -> Result:
        runtime = context.runtime
        former = runtime.status_of(arguments.model)
        runtime.activate(arguments.model, arguments.version)
        return {"version": arguments.version, "former_version": former.version}

    def proof(self, context: Context, arguments: Activate) -> Result | None:
        try:
            status = context.runtime.status_of(arguments.model, arguments.version)
        except EdgeError:
            return None
        return {"version": status.version} if status.is_active else None


VERB = ActivateVerb()

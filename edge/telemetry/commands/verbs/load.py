"""``load``: a model into memory, also one that was unloaded or failed before."""

from __future__ import annotations

import msgspec

from edge.telemetry.commands.verb import Context, Progress, Result, Verb


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``version``: the active one unless named."""

    model: str
    version: str = ""


class LoadVerb(Verb[Load]):
    arguments = Load

    def run(self, context: Context, arguments: Load, progress: Progress) -> Result:
        runtime, version = context.runtime, arguments.version or None
        runtime.load(arguments.model, version)
        status = runtime.status_of(arguments.model, version)
        return {
            "version": status.version,
            "state": status.state,
            "engine": status.engine,
            "variant": status.variant,
            "placement": status.placement.actual if status.placement else "",
        }


VERB = LoadVerb()

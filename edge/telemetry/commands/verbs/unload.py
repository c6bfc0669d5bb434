"""``unload``: give a model's memory back; it answers nothing until it is loaded again."""

from __future__ import annotations

import msgspec

from edge.telemetry.commands.verb import Context, Progress, Result, Verb


class Unload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``version``: all of them unless named."""

    model: str
    version: str = ""


class UnloadVerb(Verb[Unload]):
    arguments = Unload

    def run(self, context: Context, arguments: Unload, progress: Progress) -> Result:
        context.runtime.unload(arguments.model, arguments.version or None)
        return {}


VERB = UnloadVerb()

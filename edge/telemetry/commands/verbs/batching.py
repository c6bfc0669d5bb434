"""``batching``: how requests for a model are put together, until the device starts again."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edge.telemetry.commands.verb import Context, Progress, Result, Verb


class Batching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As in ``[models.<name>]`` of edge.toml, which holds again after the next start."""

    model: str
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    max_delay_us: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0


class BatchingVerb(Verb[Batching]):
    arguments = Batching

    def run(self, context: Context, arguments: Batching, progress: Progress) -> Result:
        """``max_rows``: what the model and its engine allow, which may be less."""
        max_batch, max_delay_us = arguments.max_batch, arguments.max_delay_us
        plan = context.runtime.set_batching(arguments.model, max_batch, max_delay_us)
        told: Result = {"max_batch": max_batch, "max_delay_us": max_delay_us}
        if plan is None:
            return {**told, "why": "what its engine allows shows when the model is loaded"}
        if plan.reason:
            told["why"] = plan.reason
        return {**told, "max_rows": plan.max_rows}


VERB = BatchingVerb()

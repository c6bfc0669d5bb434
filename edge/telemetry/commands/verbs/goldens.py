"""``goldens``: does a model answer here as it did at conversion, on the engine that serves it?"""

from __future__ import annotations

import msgspec

from edge.core.errors import EngineError
from edge.telemetry.commands.verb import Context, Progress, Result, Verb


class Goldens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``version``: the active one unless named."""

    model: str
    version: str = ""


class GoldensVerb(Verb[Goldens]):
    arguments = Goldens

    def run(self, context: Context, arguments: Goldens, progress: Progress) -> Result:
        model = context.runtime.model(arguments.model, arguments.version or None)
        results = model.verify_goldens()
        failed = [result for result in results if not result.passed]
        if failed:
            worst = max(failed, key=lambda result: result.max_abs_error / (result.tolerance or 1.0))
            raise EngineError(
                f"{len(failed)} of {len(results)} outputs of goldens are off: golden "
                f"{worst.golden}, output {worst.output} by {worst.max_abs_error:.3g}, allowed is "
                f"{worst.tolerance:.3g} ({model.engine}, {model.variant.id})",
                hint=f"send roll-back for {model.name}, or convert it again",
            )
        shares = [result.max_abs_error / result.tolerance for result in results if result.tolerance]
        return {
            "version": model.version,
            "variant": model.variant.id,
            "engine": model.engine,
            "golden_count": len({result.golden for result in results}),
            "worst_share_of_tolerance": max(shares, default=0.0),
        }


VERB = GoldensVerb()

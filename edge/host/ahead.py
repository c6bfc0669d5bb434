"""Builds a bundle's engines ahead of time, so that nothing has to wait for them later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec

from edge.core import plugins
from edge.core.build import EngineBuilder
from edge.host.opening import REFUSALS, Opener

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.host.choice import Candidate, Wish

Follow = Callable[[str, str, float], None]
"""Called with a variant's id, the phase of its build, and the share that is done."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a variant that has to be built; ``reason`` says why it was not."""

    id: str
    engine: str
    state: Literal["built", "present", "skipped", "failed"]
    path: str = ""
    size_bytes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""


def build_ahead(bundle: Bundle, wish: Wish, follow: Follow) -> tuple[Outcome, ...]:
    """Build all that ``wish`` names and this machine can; empty if nothing has to be built.

    Raises:
        NotFoundError: The bundle has no variant of that id or engine.
    """
    opener = Opener(bundle.manifest, wish)
    built = (_build(opener, bundle, candidate, follow) for candidate in opener.choice.candidates)
    return (*(outcome for outcome in built if outcome is not None), *_skipped(bundle, opener))


def _build(opener: Opener, bundle: Bundle, candidate: Candidate, follow: Follow) -> Outcome | None:
    variant = candidate.variant
    try:
        made = opener.starter.build(bundle, candidate, partial(follow, variant.id))
    except REFUSALS as error:
        reason, hint = str(error), error.hint
        return Outcome(variant.id, variant.engine, "failed", reason=reason, hint=hint)
    if made is None:
        return None
    return Outcome(
        id=variant.id,
        engine=variant.engine,
        state="present" if made.was_there else "built",
        path=str(made.path),
        size_bytes=made.size_bytes,
        seconds=made.seconds,
        notes=made.notes,
    )


def _skipped(bundle: Bundle, opener: Opener) -> Iterator[Outcome]:
    """What this machine can't build, and why."""
    obstacles = opener.choice.obstacles
    known = plugins.stems("runtimes")
    for variant in bundle.manifest.variants:
        backend = plugins.backend(variant.engine) if variant.engine in known else None
        if variant.id in obstacles and isinstance(backend, EngineBuilder):
            hint = backend.availability().hint
            reason = obstacles[variant.id]
            yield Outcome(variant.id, variant.engine, "skipped", reason=reason, hint=hint)

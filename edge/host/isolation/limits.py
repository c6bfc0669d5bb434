"""How long a host waits for a worker, and how often it starts it again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from edge.settings import ModelSettings


class Limits(msgspec.Struct, frozen=True):
    """How much patience a host has with a worker.

    ``timeout_s`` is for one run (0: any time). ``start_timeout_s`` is for opening the variant once
    more, and for runs that wait for that; ``first_timeout_s`` for the first time, which may build
    an engine (0: any time); ``close_timeout_s`` for the last runs to end. ``lanes`` runs go on at
    the same time. A worker that ended starts again after ``delay_s``, each time after twice as
    long up to ``longest_delay_s``, until it lived for ``healthy_s``; not if it was the last of
    ``deaths`` within ``window_s``.
    """

    timeout_s: float = 0.0
    start_timeout_s: float = 60.0
    first_timeout_s: float = 60.0
    close_timeout_s: float = 10.0
    lanes: int = 4
    delay_s: float = 0.1
    longest_delay_s: float = 30.0
    healthy_s: float = 60.0
    deaths: int = 5
    window_s: float = 60.0


def limits_of(settings: ModelSettings, *, has_to_build: bool) -> Limits:
    """Those of a model; an engine that ``has_to_build`` something first takes minutes for it."""
    usual = Limits()
    return Limits(
        timeout_s=settings.timeout_s,
        first_timeout_s=0.0 if has_to_build else usual.first_timeout_s,
        # More would wait for each other in the engine as well, but take memory for their tensors.
        lanes=max(settings.instances, os.cpu_count() or 1),
    )

"""``[power]``: heat and power."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[power]``: what gives way when the device throttles, or takes more than it may.

    ``policy``: ``throughput`` lets fewer batches run at once, down to one, then fewer start per
    second; ``latency`` leaves as many at once, and only starts fewer; ``watch`` looks on and says
    so; ``off`` does not look. ``budget_watts`` is for what the sensors measure as a whole and
    ``max_celsius`` for the warmest of them (0: only what the device itself says). No fewer than
    ``min_batches_per_s`` start, however bad it is. ``root`` is where ``sys`` and ``proc`` are
    found: in a container, where those of its host are.
    """

    policy: Literal["throughput", "latency", "watch", "off"] = "throughput"
    budget_watts: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0
    max_celsius: Annotated[float, msgspec.Meta(ge=0, le=150)] = 0.0
    min_batches_per_s: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0
    interval_s: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 1.0
    root: str = "/"

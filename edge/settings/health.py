"""``[health]``: whether models still see what they were made for, as fast and as right."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[health]``: what is told of models that no longer do as they did when converted.

    With ``drift``, at most ``looks_per_s`` inferences of a model are looked at, and the last
    ``window`` of them are held against the distribution in its bundle. With ``latency``, a model
    is slow once its median is ``slow_factor`` times that of its bundle or of its own beginning, or
    its 99th percentile twice that, for ``slow_s``. The last ``labels`` answers of a model that were
    given an id are remembered, so that labels can come back for them (0: none); its accuracy is low
    once it is ``accuracy_margin`` points below the bundle's, and that is no chance.
    """

    drift: bool = True
    looks_per_s: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    window: Annotated[int, msgspec.Meta(ge=50, le=100_000)] = 200
    latency: bool = True
    slow_factor: Annotated[float, msgspec.Meta(gt=1, le=1000)] = 2.0
    slow_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 30.0
    labels: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    accuracy_margin: Annotated[float, msgspec.Meta(ge=0, le=100)] = 2.0

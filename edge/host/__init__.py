"""The on-device runtime: picks a variant for this machine, loads it, runs it, and counts."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in `edge`: a worker process needs one module of this package

if TYPE_CHECKING:
    from edge.host.activation import Probation as Probation
    from edge.host.ahead import Outcome as Outcome
    from edge.host.ahead import build_ahead as build_ahead
    from edge.host.building import BuildProgress as BuildProgress
    from edge.host.choice import Fallback as Fallback
    from edge.host.choice import Wish as Wish
    from edge.host.goldens import GoldenResult as GoldenResult
    from edge.host.governor import Strain as Strain
    from edge.host.health.status import ModelHealth as ModelHealth
    from edge.host.health.truth import TrueBox as TrueBox
    from edge.host.health.truth import TrueMask as TrueMask
    from edge.host.loading import load as load
    from edge.host.loading import load_bundle as load_bundle
    from edge.host.metering import CostReport as CostReport
    from edge.host.metering import ModelCost as ModelCost
    from edge.host.model import Model as Model
    from edge.host.restraint import LEVELS as LEVELS
    from edge.host.restraint import Limits as Limits
    from edge.host.runtime import Runtime as Runtime
    from edge.host.statistics import STAGES as STAGES
    from edge.host.statistics import Histogram as Histogram
    from edge.host.statistics import Snapshot as Snapshot
    from edge.host.statistics import Statistics as Statistics
    from edge.host.status import ModelStatus as ModelStatus

_HOMES = {
    "Probation": "edge.host.activation",
    "Outcome": "edge.host.ahead",
    "build_ahead": "edge.host.ahead",
    "BuildProgress": "edge.host.building",
    "Fallback": "edge.host.choice",
    "Wish": "edge.host.choice",
    "GoldenResult": "edge.host.goldens",
    "Strain": "edge.host.governor",
    "ModelHealth": "edge.host.health.status",
    "TrueBox": "edge.host.health.truth",
    "TrueMask": "edge.host.health.truth",
    "load": "edge.host.loading",
    "load_bundle": "edge.host.loading",
    "CostReport": "edge.host.metering",
    "ModelCost": "edge.host.metering",
    "Model": "edge.host.model",
    "LEVELS": "edge.host.restraint",
    "Limits": "edge.host.restraint",
    "Runtime": "edge.host.runtime",
    "STAGES": "edge.host.statistics",
    "Histogram": "edge.host.statistics",
    "Snapshot": "edge.host.statistics",
    "Statistics": "edge.host.statistics",
    "ModelStatus": "edge.host.status",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edge.host' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value

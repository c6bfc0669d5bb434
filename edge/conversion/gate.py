"""The gate: which variants keep the accuracy that was asked for, and which of those to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from edge.conversion.report import Gate
from edge.core.manifest import Metric, Variant
from edge.core.profile import DeviceProfile

if TYPE_CHECKING:
    from edge.conversion.workbench import Judged

DEFAULT_METRIC_DROP = 1.0
"""Points of the task's metric that a variant may lose when nothing else was asked for."""

DEFAULT_AGREEMENT_DROP = 5.0
"""The same in points of agreement. Wider: two models that are equally right on a set of
pictures still differ on several percent of them, so agreement falls faster than accuracy."""

NOISE = 1.05
"""Latencies this close to the best are taken for equal: the more accurate, then the smaller
variant wins."""

CHANCE = 0.5
"""Points of difference in loss that are taken for none."""


class Bound(msgspec.Struct, frozen=True):
    """What may be lost: ``points`` of the metric ``source`` has, or of agreement where it has none.

    ``source`` is what the source itself reached on the measured samples.
    """

    points: float
    source: Metric | None
    at_least: float | None = None

    @property
    def reached(self) -> float:
        """What the source reached, of agreement all."""
        return self.source.value if self.source else 100.0

    @property
    def allowed(self) -> str:
        return (
            f"{self.points:g} allowed" if self.at_least is None else f"at least {self.at_least:g}"
        )

    @property
    def measure(self) -> str:
        return self.source.name if self.source else "agreement"

    def loss(self, judged: Judged) -> float | None:
        """Points lost against the source; None when nothing was measured."""
        scores = judged.scores
        if scores is None:
            return None
        if self.source is not None:
            return None if scores.metric is None else self.source.value - scores.metric.value
        return None if scores.agreement is None else 100.0 * (1.0 - scores.agreement)

    def lost(self, loss: float | None) -> str:
        """``loss`` in words."""
        if loss is None:
            return "was not measured"
        if self.at_least is not None:
            return f"reaches {self.reached - loss:.2f} of {self.measure}"
        if loss == 0:
            return f"keeps all {self.measure}"
        return f"{'loses' if loss > 0 else 'gains'} {abs(loss):.2f} points of {self.measure}"


class Decision(msgspec.Struct, frozen=True):
    """Variants, best first, and those of them that go into the bundle."""

    ranked: tuple[Variant, ...]
    kept: tuple[Variant, ...]
    front: frozenset[str]
    gate: Gate


def bound_for(
    source: Metric | None, max_drop: float | None, at_least: float | None = None
) -> Bound:
    """The bound that was asked for, else the default for what is measured."""
    if at_least is not None:
        return Bound((source.value if source else 100.0) - at_least, source, at_least)
    default = DEFAULT_METRIC_DROP if source else DEFAULT_AGREEMENT_DROP
    return Bound(default if max_drop is None else max_drop, source)


def decide(
    variants: Sequence[Variant],
    losses: Mapping[str, float | None],
    profile: DeviceProfile,
    bound: Bound,
    *,
    must_pass: bool,
    is_latency_valid: bool,
) -> Decision:
    """Choose among measured variants.

    Args:
        losses: Points that each lost, by its id.
        must_pass: Keep the best per engine only if it passes; else (a precision was asked for by
            name) in any case.
        is_latency_valid: Latency here says something of the device, so the fastest wins; else
            the profile's order of precisions and engines decides.
    """

    def passes(variant: Variant) -> bool:
        loss = losses[variant.id]
        return loss is not None and loss <= bound.points

    times = [v.latency_ms.p50 for v in variants if v.latency_ms and passes(v)]
    as_fast = min(times, default=0.0) * NOISE

    def rank(variant: Variant) -> tuple[bool, float, int, int, int, int]:
        latency = variant.latency_ms.p50 if variant.latency_ms and is_latency_valid else 0.0
        loss = max(0.0, losses[variant.id] or 0.0)
        return (
            not passes(variant),
            latency if latency > as_fast else 0.0,
            round(loss / CHANCE) if is_latency_valid else 0,
            variant.size_bytes if is_latency_valid else 0,
            _position(variant.precision, profile.precision.preference),
            _position(variant.engine, profile.runtimes.order),
        )

    ranked = sorted(variants, key=rank)
    engines = dict.fromkeys(variant.engine for variant in ranked)
    best = [next(v for v in ranked if v.engine == engine) for engine in engines]
    kept = [variant for variant in best if passes(variant)] if must_pass else best
    kept = kept or ranked[:1]
    missed = [variant.id for variant in kept if not passes(variant)]
    told = missed or [kept[0].id]
    why = "; ".join(f"{name} {bound.lost(losses[name])}" for name in told)
    gate = Gate(bound.points, bound.measure, met=not missed, why=f"{why}; {bound.allowed}")
    chosen = msgspec.structs.replace(kept[0], chosen=True)
    ids = {variant.id for variant in kept}
    ranked = [chosen if variant.id == chosen.id else variant for variant in ranked]
    return Decision(
        tuple(ranked), tuple(v for v in ranked if v.id in ids), _front(ranked, losses), gate
    )


def _front(variants: Sequence[Variant], losses: Mapping[str, float | None]) -> frozenset[str]:
    """Variants that no other one beats in loss, latency and size at once."""
    points = {
        variant.id: (loss, variant.latency_ms.p50, variant.size_bytes)
        for variant in variants
        if variant.latency_ms and (loss := losses[variant.id]) is not None
    }

    def is_beaten(point: tuple[float, float, int]) -> bool:
        return any(
            other != point and all(o <= p for o, p in zip(other, point, strict=True))
            for other in points.values()
        )

    return frozenset(name for name, point in points.items() if not is_beaten(point))


def _position(item: str, order: Sequence[str]) -> int:
    return order.index(item) if item in order else len(order)

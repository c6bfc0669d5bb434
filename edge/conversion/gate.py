"""The gate: which variants keep the accuracy that was asked for, and which of those to choose."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge.conversion.report import Gate, Refusal
from edge.core.manifest import Metric, Variant
from edge.core.profile import DeviceProfile

DEFAULT_METRIC_DROP = 1.0
"""Points of the task's metric that a variant may lose when nothing else was asked for."""

DEFAULT_AGREEMENT_DROP = 5.0
"""The same in points of agreement. Wider: two models that are equally right on a set of
pictures still differ on several percent of them, so agreement falls faster than accuracy."""

NOISE = 1.05
"""Latencies this close to the best are taken for equal: the smaller variant wins."""


class Decision(msgspec.Struct, frozen=True):
    """Variants, best first, those of them that go into the bundle, and recipes that did worse."""

    ranked: tuple[Variant, ...]
    kept: tuple[Variant, ...]
    gate: Gate
    surpassed: tuple[Refusal, ...]


def decide(
    variants: Sequence[Variant],
    profile: DeviceProfile,
    *,
    source_metric: Metric | None,
    max_drop: float | None,
    must_pass: bool,
    is_latency_valid: bool,
) -> Decision:
    """Choose among measured variants.

    Args:
        must_pass: Keep the best per engine only if it passes; else (a precision was asked for by
            name) in any case.
        is_latency_valid: Latency here says something of the device, so the fastest wins; else
            the profile's order of precisions and engines decides.
    """
    measure = source_metric.name if source_metric else "agreement"
    default = DEFAULT_METRIC_DROP if source_metric else DEFAULT_AGREEMENT_DROP
    bound = default if max_drop is None else max_drop
    drops = {variant.id: _drop(variant, source_metric) for variant in variants}
    variants, surpassed = _best_recipes(variants, drops, measure)

    def passes(variant: Variant) -> bool:
        drop = drops[variant.id]
        return drop is not None and drop <= bound

    times = [v.latency_ms.p50 for v in variants if v.latency_ms and passes(v)]
    as_fast = min(times, default=0.0) * NOISE

    def rank(variant: Variant) -> tuple[bool, float, int, int, int]:
        latency = variant.latency_ms.p50 if variant.latency_ms and is_latency_valid else 0.0
        return (
            not passes(variant),
            latency if latency > as_fast else 0.0,
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
    gate = Gate(bound, measure, met=not missed, why=_why(kept, drops, bound, measure, missed))
    chosen = msgspec.structs.replace(kept[0], chosen=True)
    ids = {variant.id for variant in kept}
    ranked = [chosen if variant.id == chosen.id else variant for variant in ranked]
    return Decision(tuple(ranked), tuple(v for v in ranked if v.id in ids), gate, surpassed)


def _drop(variant: Variant, source_metric: Metric | None) -> float | None:
    """Points lost against the source; None when nothing was measured."""
    if source_metric is not None:
        return None if variant.metric is None else source_metric.value - variant.metric.value
    return None if variant.agreement is None else 100.0 * (1.0 - variant.agreement)


def _best_recipes(
    variants: Sequence[Variant], drops: dict[str, float | None], measure: str
) -> tuple[list[Variant], tuple[Refusal, ...]]:
    """Of variants of one engine and precision, the one that loses least; of equals the first."""

    def loss(variant: Variant) -> tuple[float, float]:
        drop = drops[variant.id]
        return (float("inf") if drop is None else drop, -(variant.agreement or 0.0))

    best: dict[tuple[str, str], Variant] = {}
    for variant in variants:
        key = (variant.engine, variant.precision)
        if key not in best or loss(variant) < loss(best[key]):
            best[key] = variant
    surpassed = tuple(
        Refusal(variant.id, f"{_lost(drops[variant.id], measure)}; {chosen.id} is kept")
        for variant in variants
        if (chosen := best[variant.engine, variant.precision]) is not variant
    )
    return list(best.values()), surpassed


def _position(item: str, order: Sequence[str]) -> int:
    return order.index(item) if item in order else len(order)


def _why(
    kept: Sequence[Variant],
    drops: dict[str, float | None],
    bound: float,
    measure: str,
    missed: Sequence[str],
) -> str:
    if missed:
        lost = "; ".join(f"{name} {_lost(drops[name], measure)}" for name in missed)
        return f"{lost}; {bound:g} allowed"
    first = kept[0]
    return f"{first.id} {_lost(drops[first.id], measure)}; {bound:g} allowed"


def _lost(drop: float | None, measure: str) -> str:
    if drop is None:
        return "was not measured"
    verb = "loses" if drop > 0 else "gains" if drop < 0 else "keeps"
    return f"{verb} {abs(drop):.2f} points of {measure}" if drop else f"keeps all {measure}"

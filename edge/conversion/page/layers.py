"""Errors by layer: the plot, and which layers are worst."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from edge.conversion.page import svg
from edge.conversion.page.figures import digits, noise_text
from edge.conversion.report import LayerError, Report

HEIGHT = 320
LEFT, RIGHT, TOP, BOTTOM = 40, 52, 30, 44
CEILING_DB, FLOOR_DB = 100.0, -20.0
"""Beyond these, tensors are equal or have nothing in common: more of it is not worth the room."""

WORST = 10


class Curve(msgspec.Struct, frozen=True):
    """Errors of one variant; ``number`` picks its colour and dashes."""

    variant: str
    number: int
    errors: tuple[LayerError, ...]

    @property
    def swatch(self) -> str:
        return svg.stroke_swatch(f"curve c{self.number % 6} d{self.number % 6}")


class WorstLayer(msgspec.Struct, frozen=True):
    """One layer over all variants; ``sqnr_db`` has None where a variant has no such layer."""

    name: str
    op: str
    sqnr_db: tuple[float | None, ...]
    lowest: float
    cosine: float


def curves(report: Report) -> list[Curve]:
    """Variants with errors, in the order of the table; others after them."""
    known = [row.id for row in report.variants if row.id in report.layers]
    ids = [*known, *sorted(set(report.layers) - set(known))]
    with_errors = [name for name in ids if report.layers[name]]
    return [Curve(name, number, report.layers[name]) for number, name in enumerate(with_errors)]


def worst_layers(drawn: Sequence[Curve]) -> list[WorstLayer]:
    by_name: dict[str, dict[str, LayerError]] = {}
    for curve in drawn:
        for error in curve.errors:
            by_name.setdefault(error.name, {})[curve.variant] = error
    rows = []
    for name, errors in by_name.items():
        worst = min(errors.values(), key=lambda error: error.sqnr_db)
        values = tuple(
            errors[curve.variant].sqnr_db if curve.variant in errors else None for curve in drawn
        )
        rows.append(WorstLayer(name, worst.op, values, worst.sqnr_db, worst.cosine))
    return sorted(rows, key=lambda row: row.lowest)[:WORST]


def plot(drawn: Sequence[Curve]) -> str:
    if not drawn:
        return ""
    order = {name: number for number, name in enumerate(merged_order(drawn), 1)}
    names = ", ".join(curve.variant for curve in drawn)
    return svg.plot(
        f"signal to noise ratio of {len(order)} layers in execution order, for {names}; "
        "the table below has the worst ones",
        HEIGHT,
        lambda width: list(_draw(drawn, order, width)),
    )


def merged_order(drawn: Sequence[Curve]) -> list[str]:
    """One order of all layers: what a later variant adds stands behind what it follows there."""
    order: list[str] = []
    known: set[str] = set()
    for curve in drawn:
        position = 0
        for error in curve.errors:
            if error.name in known:
                position = order.index(error.name) + 1
            else:
                order.insert(position, error.name)
                known.add(error.name)
                position += 1
    return order


def _draw(drawn: Sequence[Curve], order: dict[str, int], width: int) -> Iterable[str]:
    found = [error.sqnr_db for curve in drawn for error in curve.errors]
    low = max(min(0.0, *found), FLOOR_DB)
    high = min(max(40.0, *found), CEILING_DB)
    x = svg.Scale(1, max(len(order), 2), LEFT + 4, width - RIGHT - 4)
    y = svg.Scale(low, high * 1.04, HEIGHT - BOTTOM, TOP)
    yield from _axes(x, y, width)
    for curve in reversed(drawn):
        points = [(x.at(order[error.name]), y.at(error.sqnr_db)) for error in curve.errors]
        look = f"c{curve.number % 6}"
        yield svg.path(points, f"curve {look} d{curve.number % 6}")
        worst = sorted(curve.errors, key=lambda error: error.sqnr_db)[:WORST]
        for error in worst:
            hint = svg.title(
                f"{curve.variant}, {error.op} {error.name}: {digits(error.sqnr_db)} dB, "
                f"noise {noise_text(error.sqnr_db)}"
            )
            at = x.at(order[error.name]), y.at(error.sqnr_db)
            yield svg.mark("circle", *at, 3.2, f"mark {look} front", hint)


def _axes(x: svg.Scale, y: svg.Scale, width: int) -> Iterable[str]:
    base, right = HEIGHT - BOTTOM, width - RIGHT
    for value in y.ticks(6):
        yield svg.line(LEFT, y.at(value), right, y.at(value), "grid")
        yield svg.text(LEFT - 8, y.at(value) + 4, svg.tick_text(value), "end", "tick")
        if value >= 0 and value % 20 == 0:
            yield svg.text(right + 6, y.at(value) + 4, noise_text(value), "start", "tick")
    for value in x.ticks(8 if width > 500 else 4):
        yield svg.text(x.at(value), base + 18, svg.tick_text(value), "middle", "tick")
    yield svg.line(LEFT, base, right, base, "axis")
    yield svg.text(2, 14, "SQNR, dB", "start", "name")
    yield svg.text(width - 2, 14, "noise", "end", "name")
    yield svg.text(right, base + 36, "layer, in the order of execution", "end", "name")

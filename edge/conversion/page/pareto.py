"""The plot of what was lost against how long an inference takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from edge.conversion.page import svg
from edge.conversion.page.figures import (
    chosen_row,
    digits,
    loss,
    ms_text,
    signed,
    size_text,
)
from edge.conversion.page.labelling import Box, Mark, labels
from edge.conversion.report import Report, VariantRow

HEIGHT = 390
LEFT, RIGHT, TOP, BOTTOM = 50, 16, 30, 46
BREAK = 34
"""Height of the band for losses that are off the scale."""

OFF_SCALE = 4.0
"""A loss beyond this many times the allowed one is off the scale, and drawn with its figure."""


class Point(msgspec.Struct, frozen=True):
    row: VariantRow
    loss: float


class Frame(msgspec.Struct, frozen=True):
    """Where values lie; a loss over ``limit`` is off the scale."""

    width: int
    x: svg.Scale
    y: svg.Scale
    limit: float
    largest: int

    def place(self, point: Point) -> tuple[float, float]:
        assert point.row.latency_ms is not None
        y = TOP + BREAK / 2 if point.loss > self.limit else self.y.at(point.loss)
        return self.x.at(point.row.latency_ms.p50), y

    def radius(self, point: Point) -> float:
        return max(14.0 * math.sqrt(point.row.size_bytes / self.largest), 4.0)


def plot(report: Report) -> str:
    """The plot, or nothing when fewer than two variants have both figures."""
    points = [
        Point(row, lost)
        for row in report.variants
        if row.latency_ms is not None and (lost := loss(report, row)) is not None
    ]
    if len(points) < 2:
        return ""
    shapes = shapes_by_engine(report)
    return svg.plot(
        f"{report.gate.measure} lost against latency of {len(points)} variants; "
        "the table of variants has the figures",
        HEIGHT,
        lambda width: _draw(report, points, shapes, _frame(report, points, width)),
    )


def shapes_by_engine(report: Report) -> dict[str, tuple[str, str]]:
    """The mark of each engine and its class of colour."""
    engines = dict.fromkeys(sorted(row.engine for row in report.variants))
    return {
        engine: (svg.SHAPES[number % len(svg.SHAPES)], f"c{number % 6}")
        for number, engine in enumerate(engines)
    }


def _frame(report: Report, points: Sequence[Point], width: int) -> Frame:
    bound = report.gate.max_drop
    losses = [point.loss for point in points]
    ceiling = OFF_SCALE * bound if bound > 0 else max(*losses, 1.0)
    limit = max([bound, *(lost for lost in losses if lost <= ceiling)])
    low, span = min(0.0, *losses), limit - min(0.0, *losses)
    span = span or 1.0
    top = TOP + BREAK if max(losses) > limit else TOP
    times = [point.row.latency_ms.p50 for point in points if point.row.latency_ms]
    times.append(report.source.latency_ms.p50)
    fastest, slowest = max(min(times), 1e-6), max(*times, 1e-6)
    spread = (slowest - fastest) or slowest
    is_log = slowest / fastest > 8
    return Frame(
        width,
        svg.Scale(
            fastest / 1.25 if is_log else max(fastest - 0.25 * spread, 0.0),
            slowest * 1.25 if is_log else slowest + 0.12 * spread,
            LEFT,
            width - RIGHT,
            is_log,
        ),
        svg.Scale(low - 0.12 * span, limit + 0.12 * span, HEIGHT - BOTTOM, top),
        limit,
        max(*(point.row.size_bytes for point in points), report.source.size_bytes, 1),
    )


def _draw(
    report: Report, points: Sequence[Point], shapes: dict[str, tuple[str, str]], frame: Frame
) -> list[str]:
    chosen = chosen_row(report)
    order = sorted(
        points, key=lambda p: (not p.row.chosen, not p.row.is_on_front, p.loss, p.row.id)
    )
    marks = []
    for point in reversed(order):
        shape, colour = shapes[point.row.engine]
        x, y = frame.place(point)
        radius = frame.radius(point)
        if point.row is chosen:
            marks.append(svg.mark(shape, x, y, radius + 5, "ring"))
        kind = "front" if point.row.is_on_front else "dominated"
        hint = svg.title(_hint(report, point))
        marks.append(svg.mark(shape, x, y, radius, f"mark {colour} {kind}", hint))
    return [
        *_axes(report, frame),
        *_front(points, frame),
        *marks,
        cross(frame.x.at(report.source.latency_ms.p50), frame.y.at(0.0)),
        *_labels(report, order, frame),
    ]


def _hint(report: Report, point: Point) -> str:
    row = point.row
    assert row.latency_ms is not None
    lost = f"{signed(-point.loss)} points of {report.gate.measure}"
    return f"{row.id}: {ms_text(row.latency_ms.p50)}, {lost}, {size_text(row.size_bytes)}"


def _axes(report: Report, frame: Frame) -> Iterable[str]:
    right, base = frame.width - RIGHT, HEIGHT - BOTTOM
    bound = frame.y.at(report.gate.max_drop)
    top = frame.y.end
    yield svg.element(
        "rect", x=LEFT, y=TOP, width=right - LEFT, height=bound - TOP, class_="refused"
    )
    for value in frame.y.ticks(5):
        yield svg.line(LEFT, frame.y.at(value), right, frame.y.at(value), "grid")
        yield svg.text(LEFT - 8, frame.y.at(value) + 4, svg.tick_text(value), "end", "tick")
    for value in frame.x.ticks(6 if frame.width > 500 else 4):
        yield svg.line(frame.x.at(value), base, frame.x.at(value), base + 4, "axis")
        yield svg.text(frame.x.at(value), base + 18, svg.tick_text(value), "middle", "tick")
    yield svg.line(LEFT, base, right, base, "axis")
    yield svg.text(right, base + 36, "median latency, ms", "end", "name")
    yield svg.text(2, 14, f"points of {report.gate.measure} lost", "start", "name")
    if top > TOP:
        yield svg.line(LEFT, top, right, top, "break")
        yield svg.text(
            LEFT - 8,
            TOP + BREAK / 2 + 4,
            f"> {svg.tick_text(round(frame.limit, 1))}",
            "end",
            "tick",
        )
    yield svg.line(LEFT, bound, right, bound, "gate")
    yield svg.text(right - 2, bound - 5, f"allowed: {report.gate.max_drop:g}", "end", "gate-name")


def _front(points: Sequence[Point], frame: Frame) -> Iterable[str]:
    """Steps through the members of the front that no other beats in these two figures."""
    best: list[tuple[float, float]] = []
    lowest = math.inf
    members = [point for point in points if point.row.is_on_front and point.loss <= frame.limit]
    for point in sorted(members, key=lambda p: (frame.place(p)[0], p.loss)):
        if point.loss < lowest:
            x, y = frame.place(point)
            if best:
                best.append((x, best[-1][1]))
            best.append((x, y))
            lowest = point.loss
    if best:
        start, end = (best[0][0], frame.y.end), (float(frame.width - RIGHT), best[-1][1])
        yield svg.path([start, *best, end], "front-line")


def cross(x: float, y: float) -> str:
    """Where the source stands; in a halo, as other marks lie under it."""
    arms = f"M{x - 6:.1f},{y:.1f}h12M{x:.1f},{y - 6:.1f}v12"
    return "".join(svg.element("path", d=arms, class_=class_) for class_ in ("halo", "source"))


def _labels(report: Report, order: Sequence[Point], frame: Frame) -> Iterable[str]:
    marks = []
    for point in order:
        words = point.row.id.removeprefix(f"{point.row.engine}-")
        if point.loss > frame.limit:
            words += f" ({digits(point.loss)})"
        class_ = "label chosen" if point.row.chosen else "label"
        marks.append(Mark(*frame.place(point), frame.radius(point), words, class_))
    x, y = frame.x.at(report.source.latency_ms.p50), frame.y.at(0.0)
    right, bound = frame.width - RIGHT, frame.y.at(report.gate.max_drop)
    obstacles = (Box(x - 7, y - 7, x + 7, y + 7), Box(right - 90, bound - 18, right, bound + 2))
    return labels(marks, Box(LEFT, TOP, frame.width - 2, HEIGHT - BOTTOM), obstacles)

"""Elements, scales and marks of inline SVG; every attribute and text is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import msgspec

WIDE = 960
NARROW = 330
"""Plots are drawn for a desk and for a phone; the style sheet shows the one that fits."""

LETTER = 6.4
"""Average width of a letter in the plots' type, in their units."""

SHAPES = ("circle", "square", "diamond", "triangle")


class Scale(msgspec.Struct, frozen=True):
    """Maps ``low`` … ``high`` to ``start`` … ``end``; values beyond are held at the ends."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        low, high, held = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, held = math.log(low), math.log(high), math.log(held)
        share = (held - low) / (high - low) if high > low else 0.0
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """About ``count`` round values within the scale."""
        if self.is_log:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / max(count, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 10) for number in range(first, last + 1)]


def _round_step(rough: float) -> float:
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def element(tag: str, *content: str, **attributes: object) -> str:
    """One element; ``content`` is markup. ``class_`` and ``stroke_width`` lose their lines."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for name, value in attributes.items()
    )
    return f"<{tag}{written}>{''.join(content)}</{tag}>"


def _attribute(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def text(x: float, y: float, words: str, anchor: str = "start", class_: str = "label") -> str:
    return element("text", escape(words), x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def title(words: str) -> str:
    """What a pointer over the element shows."""
    return element("title", escape(words))


def path(points: Sequence[tuple[float, float]], class_: str, *, is_closed: bool = False) -> str:
    steps = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("path", d=f"M{steps}{'Z' if is_closed else ''}", class_=class_)


def mark(shape: str, x: float, y: float, radius: float, class_: str, *content: str) -> str:
    """A mark of the same area whatever its shape."""
    if shape == "circle":
        return element("circle", *content, cx=x, cy=y, r=radius, class_=class_)
    half = radius * {"square": 0.886, "diamond": 1.253, "triangle": 1.347}[shape]
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1), (1, 0), (0, 1), (-1, 0)),
        "triangle": ((0, -1.0), (1, 0.73), (-1, 0.73)),
    }[shape]
    points = " ".join(f"{x + half * dx:.1f},{y + half * dy:.1f}" for dx, dy in corners)
    return element("polygon", *content, points=points, class_=class_)


def swatch(drawn: str) -> str:
    """A mark at 7, 7 for a legend."""
    return element("svg", drawn, viewBox="0 0 14 14", class_="swatch", aria_hidden="true")


def stroke_swatch(class_: str) -> str:
    """A piece of a line for a legend."""
    drawn = line(1, 7, 25, 7, class_)
    return element("svg", drawn, viewBox="0 0 26 14", class_="swatch long", aria_hidden="true")


def bar(shares: Sequence[float], classes: Sequence[str]) -> str:
    """Stacked shares of one, as wide as the place it stands in."""
    parts, start = [], 0.0
    for share, class_ in zip(shares, classes, strict=True):
        parts.append(
            element("rect", x=100 * start, y=0, width=100 * share, height=10, class_=class_)
        )
        start += share
    return element(
        "svg",
        *parts,
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


def plot(label: str, height: int, draw: Callable[[int], Sequence[str]]) -> str:
    """A plot in both widths; ``draw`` gets the width. ``label`` is for those who can't see it."""
    return "".join(
        element(
            "svg",
            *draw(width),
            viewBox=f"0 0 {width} {height}",
            class_=f"plot {name}",
            role="img",
            aria_label=label,
        )
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    )


def tick_text(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−")

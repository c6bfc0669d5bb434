"""The plot of the memory that a model takes while its graph is run."""

from __future__ import annotations

from collections.abc import Iterable

from edge.conversion.page import svg
from edge.conversion.page.figures import UNITS, size_text
from edge.conversion.report import MemoryEstimate, MemoryStep

HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 50, 16, 40, 44


def peak_step(memory: MemoryEstimate) -> MemoryStep | None:
    """The first step with the most bytes alive."""
    return max(memory.steps, key=lambda step: step.live_bytes, default=None)


def plot(memory: MemoryEstimate) -> str:
    if not memory.steps:
        return ""
    return svg.plot(
        f"estimated memory over {len(memory.steps)} steps of the graph: "
        f"{size_text(memory.weight_bytes)} of weights, {size_text(memory.peak_bytes)} at the peak",
        HEIGHT,
        lambda width: list(_draw(memory, width)),
    )


def _draw(memory: MemoryEstimate, width: int) -> Iterable[str]:
    peak = peak_step(memory)
    assert peak is not None
    highest = max(memory.weight_bytes + peak.live_bytes, 1)
    power = 0
    while highest / 1000**power >= 1000 and power < len(UNITS) - 1:
        power += 1
    unit = 1000.0**power
    count = len(memory.steps)
    x = svg.Scale(0, count, LEFT, width - RIGHT)
    y = svg.Scale(0, highest / unit * 1.1, HEIGHT - BOTTOM, TOP)
    base, weights = y.at(0), y.at(memory.weight_bytes / unit)
    for value in y.ticks(5):
        yield svg.line(LEFT, y.at(value), width - RIGHT, y.at(value), "grid")
        yield svg.text(LEFT - 8, y.at(value) + 4, svg.tick_text(value), "end", "tick")
    outline = [(x.at(0), weights)]
    for number, step in enumerate(memory.steps):
        top = y.at((memory.weight_bytes + step.live_bytes) / unit)
        outline += [(x.at(number), top), (x.at(number + 1), top)]
    outline.append((x.at(count), weights))
    yield svg.path(outline, "area", is_closed=True)
    yield svg.element(
        "rect", x=LEFT, y=weights, width=width - RIGHT - LEFT, height=base - weights, class_="floor"
    )
    yield svg.line(LEFT, weights, width - RIGHT, weights, "floor-line")
    yield svg.line(LEFT, base, width - RIGHT, base, "axis")
    for value in x.ticks(8 if width > 500 else 4):
        if value >= 1:
            at = (x.at(value - 1) + x.at(value)) / 2
            yield svg.text(at, base + 18, svg.tick_text(value), "middle", "tick")
    yield svg.text(2, 14, f"memory, {UNITS[power]}", "start", "name")
    yield svg.text(width - RIGHT, base + 36, "step, in the order of execution", "end", "name")
    yield from _peak(memory, peak, (x, y), unit)


def _peak(
    memory: MemoryEstimate, peak: MemoryStep, scales: tuple[svg.Scale, svg.Scale], unit: float
) -> Iterable[str]:
    x, y = scales
    number = memory.steps.index(peak)
    at = (x.at(number) + x.at(number + 1)) / 2
    top = y.at((memory.weight_bytes + peak.live_bytes) / unit)
    is_right = at > (x.start + x.end) / 2
    words = f"peak {size_text(memory.weight_bytes + peak.live_bytes)}"
    yield svg.mark("circle", at, top, 4.0, "peak", svg.title(f"{peak.op} {peak.node}"))
    yield svg.text(at, top - 10, words, "end" if is_right else "start", "label chosen")

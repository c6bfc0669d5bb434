"""The report as one HTML page that needs nothing but itself (``report/report.html``)."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from edge.conversion.page import figures, layers, memory, pareto, svg, tables
from edge.conversion.page.summary import summarize
from edge.conversion.report import Report
from edge.core.lazy import require

SECTIONS = (
    ("variants", "Variants"),
    ("trade-off", "Accuracy against speed"),
    ("layers", "Error by layer"),
    ("disagreements", "Disagreements"),
    ("placement", "Placement"),
    ("memory", "Memory"),
    ("tried", "Tried and refused"),
    ("provenance", "Provenance"),
)


def render(report: Report) -> str:
    """The page; equal for equal reports. Everything in ``report`` is escaped.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="convert")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _part("style.css"), _part("sort.js")
    page = environment.from_string(_part("page.html")).render(
        report=report,
        sections=SECTIONS,
        style=style,
        script=script,
        policy=_policy(style, script),
        **_figures(),
        **_content(report),
    )
    return str(page)


def _part(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded, and nothing runs but our own style and script: not even with a hole."""
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _figures() -> dict[str, Any]:
    """Functions that the template writes figures with."""
    return {
        "size_text": figures.size_text,
        "ms_text": figures.ms_text,
        "ratio_text": figures.ratio_text,
        "percent_text": figures.percent_text,
        "energy_text": figures.energy_text,
        "noise_text": figures.noise_text,
        "db_text": figures.db_text,
        "two_places": figures.two_places,
        "points_text": figures.points_text,
        "digits": figures.digits,
        "placement_words": tables.placement_words,
    }


def _content(report: Report) -> dict[str, Any]:
    curves = layers.curves(report)
    chosen = figures.chosen_row(report)
    return {
        "summary": summarize(report),
        "has_energy": any(row.joules is not None for row in report.variants),
        "machines": sorted({row.measured_on for row in report.variants} - {""}),
        "pareto": pareto.plot(report),
        "engines": [
            (engine, svg.swatch(svg.mark(shape, 7, 7, 5, f"mark {colour} front")))
            for engine, (shape, colour) in pareto.shapes_by_engine(report).items()
        ],
        "front_swatch": svg.stroke_swatch("front-line"),
        "source_swatch": svg.swatch(pareto.cross(7, 7)),
        "gate_swatch": svg.stroke_swatch("gate"),
        "curves": curves,
        "layer_plot": layers.plot(curves),
        "worst": layers.worst_layers(curves),
        "agreement": chosen.agreement if chosen else None,
        "different": tables.disagreements(report),
        "no_disagreement": tables.no_disagreement(report),
        "placed": tables.placements(report),
        "memory_plot": memory.plot(report.memory) if report.memory else "",
        "peak": memory.peak_step(report.memory) if report.memory else None,
        "reasons": tables.reasons(report),
    }

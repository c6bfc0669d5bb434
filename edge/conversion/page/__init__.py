"""The report as one HTML page that needs nothing but itself (``report/report.html``)."""

from __future__ import annotations

from importlib import resources

from edge.conversion.report import Report
from edge.core.lazy import require

TEMPLATE = "page.html"


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
    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return str(environment.from_string(text).render(report=report))

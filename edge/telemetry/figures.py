"""All that was reported last as single values, for formats that know no nesting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from edge.telemetry.quantities import Quantity, Value, describe
from edge.telemetry.reports import Report

ROWS = "models"
"""Where a report has a list of rows, one for each version of a model."""


class Figure(msgspec.Struct, frozen=True):
    """One value, and where it was told.

    Attributes:
        model: Whose it is; empty for the device's own.
        group: What the report was about, ``device`` for example; empty for a model's own state.
        keys: The way to it in the report's metrics, or in the row of its model.
        path: That of the report.
        value: None while it is not known.
        quantity: As of the first value that was known.
    """

    model: str
    group: str
    keys: tuple[str, ...]
    path: tuple[str, ...]
    value: Value | None
    quantity: Quantity

    @property
    def name(self) -> str:
        """Unique within its model or the device."""
        return "/".join((self.group, *self.keys) if self.group else self.keys)

    @property
    def is_of_row(self) -> bool:
        return bool(self.model) and self.path[0] != "model"


class Figures:
    """The newest figures of all reports; what is no longer told is kept as not known.

    Of several versions of a model that is told which serves the model.
    """

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        """Model -> the version that speaks for it."""
        self._known: dict[tuple[str, str], Figure] = {}

    def __iter__(self) -> Iterator[Figure]:
        return iter(self._known.values())

    def take(self, reports: Iterable[Report]) -> None:
        for report in reports:
            if report.kind == "event":
                continue
            is_model = report.path[0] == "model"
            if is_model and not report.metrics:
                self._forget(report.path[1])
                continue
            if is_model:
                self.versions[report.path[1]] = str(report.metrics.get("version", ""))
            self._replace(report.path, self._read(report))

    def _forget(self, model: str) -> None:
        self.versions.pop(model, None)
        self._known = {key: one for key, one in self._known.items() if one.model != model}

    def _replace(self, path: tuple[str, ...], found: Iterable[Figure]) -> None:
        gone = {key: one for key, one in self._known.items() if one.path == path}
        for figure in found:
            key = (figure.model, figure.name)
            known = self._known.get(key)
            if known is None:
                self._known[key] = figure
            elif known.path == path:  # else it is told elsewhere as well, and was there first
                gone.pop(key, None)
                is_same = known.quantity.kind == figure.quantity.kind
                self._known[key] = figure if not is_same else _with(known, figure.value)
        for key, figure in gone.items():
            self._known[key] = _with(figure, None)

    def _read(self, report: Report) -> Iterator[Figure]:
        if report.path[0] == "model":
            yield from _walk(report, report.path[1], "", _without(report.metrics, "name"))
            return
        group = report.path[-1]
        if group != "model":  # which tells nothing of its own but how long its window was
            yield from _walk(report, "", group, _without(report.metrics, ROWS))
        rows = {str(row["name"]): row for row in self._rows(report)}
        for model, row in rows.items():
            told = _without(row, "name", "version")
            if group != "model":
                yield from _walk(report, model, group, told)
                continue
            # Which engine and precision it has is told with its state, as texts and truths.
            numbers = {key: one for key, one in told.items() if not isinstance(one, str | bool)}
            yield from _walk(report, model, "", numbers)

    def _rows(self, report: Report) -> Iterator[Mapping[str, Any]]:
        """Those of the versions that serve, each the last of its model."""
        rows = report.metrics.get(ROWS, ())
        named = [row for row in rows if isinstance(row, dict) and row.get("name")]
        for row in named:
            version = str(row.get("version", ""))
            serving = self.versions.get(str(row["name"])) or version
            if report.path != ("info",) and version == serving:
                yield row


def _walk(
    report: Report, model: str, group: str, metrics: Mapping[str, Any], keys: tuple[str, ...] = ()
) -> Iterator[Figure]:
    for key, told in metrics.items():
        here = (*keys, str(key))
        if isinstance(told, Mapping):
            yield from _walk(report, model, group, told, here)
        elif told is not None:
            value = ", ".join(map(str, told)) if isinstance(told, list | tuple) else told
            yield Figure(model, group, here, report.path, value, describe(here, value))


def _without(metrics: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key not in names}


def _with(figure: Figure, value: Value | None) -> Figure:
    if figure.value == value:
        return figure
    return msgspec.structs.replace(figure, value=value)

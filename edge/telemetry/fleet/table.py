"""A fleet on a terminal of 80 columns, or in a pipe: a line for each device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from edge.telemetry.fleet.picture import (
    DeviceSummary,
    Money,
    ServedModel,
    State,
    VersionCount,
    count_versions,
)
from edge.telemetry.lines import NOTHING, figure

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_STYLES: dict[State, str] = {
    "online": "green",
    "silent": "yellow",
    "offline": "red",
    "unknown": "yellow",
}
_MARKS = {"online": "●", "silent": "◐", "offline": "○", "unknown": "?"}
_DIGEST = 7  # characters that tell two bundles apart


def render(devices: list[DeviceSummary], *, most: int = 0) -> RenderableType:
    """The table, and below it which versions serve on how many devices.

    Args:
        most: Lines at most, those with something to tell first; 0 for all.
    """
    from rich.console import Group
    from rich.text import Text

    versions = count_versions(devices)
    shown = _notable_first(devices)[:most] if most and len(devices) > most else devices
    parts: list[RenderableType] = [_table(shown, versions)]
    if len(shown) < len(devices):
        parts.append(Text(f"  … and {len(devices) - len(shown):,} more", style="dim"))
    if versions:
        parts += [Text(), *_version_lines(versions)]
    return Group(*parts)


def heading(devices: list[DeviceSummary]) -> str:
    """``12 devices: 10 online, 2 offline``."""
    counts = Counter(device.state for device in devices)
    states = ", ".join(f"{counts[state]:,} {state}" for state in _STYLES if counts[state])
    return f"{len(devices):,} device{'s' if len(devices) != 1 else ''}: {states}"


def _notable_first(devices: list[DeviceSummary]) -> list[DeviceSummary]:
    return sorted(devices, key=lambda device: device.state == "online" and not device.findings)


def _table(devices: Iterable[DeviceSummary], versions: list[VersionCount]) -> Table:
    from rich.table import Table

    devices = list(devices)
    fleets = {device.fleet for device in devices}
    twins = {(one.name, one.version) for one in versions if one.has_twin}
    currencies = {money.currency for device in devices for money in _costs(device)}
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", expand=True)
    grid.add_column("  device", no_wrap=True, overflow="ellipsis", max_width=22)
    grid.add_column("edge", no_wrap=True, overflow="ellipsis", max_width=8)
    grid.add_column("models", no_wrap=True, overflow="ellipsis", max_width=24)
    grid.add_column("per s", justify="right", no_wrap=True)
    if currencies:
        unit = currencies.pop() if len(currencies) == 1 else "cost"
        grid.add_column(f"{unit}/M", justify="right", no_wrap=True)
    grid.add_column("health", no_wrap=True, overflow="ellipsis", ratio=1, min_width=16)
    has_cost = len(grid.columns) == 6
    for device in devices:
        cells: list[RenderableType] = [
            _name(device, has_fleet=len(fleets) > 1),
            device.edge_version or NOTHING,
            ", ".join(_model(model, twins) for model in device.models) or NOTHING,
            figure(_rate(device), 1),
            *([_cost(device)] if has_cost else []),
            _health(device),
        ]
        grid.add_row(*cells, style="dim" if device.state == "offline" else "")
    return grid


def _name(device: DeviceSummary, *, has_fleet: bool) -> Text:
    from rich.text import Text

    name = f"{device.fleet}/{device.device}" if has_fleet else device.device
    return Text.assemble((f"{_MARKS[device.state]} ", _STYLES[device.state]), name)


def _model(model: ServedModel, twins: set[tuple[str, str]]) -> str:
    text = f"{model.name} {model.version}"
    has_twin = (model.name, model.version) in twins
    return f"{text}@{model.digest[:_DIGEST]}" if has_twin else text


def _rate(device: DeviceSummary) -> float | None:
    rates = [model.success_per_s for model in device.models if model.success_per_s is not None]
    return sum(rates) if rates and device.state != "offline" else None


def _costs(device: DeviceSummary) -> list[Money]:
    return [model.per_million for model in device.models if model.per_million is not None]


def _cost(device: DeviceSummary) -> str:
    """Of the only model that has one; of several, from the cheapest to the dearest."""
    amounts = sorted(money.amount for money in _costs(device))
    return "–".join(dict.fromkeys(figure(one, 2) for one in amounts[:1] + amounts[-1:])) or NOTHING


def _health(device: DeviceSummary) -> Text:
    from rich.text import Text

    if device.state == "offline":
        return Text(f"offline: {device.reason}" if device.reason else "offline", style="red")
    if device.state == "silent":
        return Text(f"silent for {device.silent_s:,.0f} s", style="yellow")
    if not device.findings:
        is_known = device.state == "online"
        return Text("ok", style="green") if is_known else Text("not heard yet", style="yellow")
    text = Text()
    for finding in device.findings:
        style = "red" if finding.severity == "bad" else "yellow"
        subject = f"{finding.subject} " if len(device.models) > 1 and finding.subject else ""
        text.append("; " if text else "").append(f"{subject}{finding.text}", style=style)
    return text


def _version_lines(versions: list[VersionCount]) -> Iterator[Text]:
    from rich.text import Text

    for name in dict.fromkeys(one.name for one in versions):
        parts = [
            f"{one.version}{f'@{one.digest[:_DIGEST]}' if one.has_twin else ''} on {one.devices:,}"
            for one in versions
            if one.name == name
        ]
        yield Text.assemble(("  ", ""), (name, "bold"), ("  " + " · ".join(parts), "dim"))

"""What telemetry looks like on a terminal: the newest of each device and model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edge.telemetry.board import TREND, Board, DeviceBoard, ModelRow
from edge.telemetry.lines import (
    NOTHING,
    about,
    clock,
    figure,
    number,
    printable,
    said,
    table,
    who,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from edge.telemetry.watcher import Arrival

_BAR = 10
_FIGURES = (("per s", 8), ("trend", TREND), ("p50 ms", 7), ("p99 ms", 7), ("errors", 6))
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLES = {"online": "green", "ready": "green", "offline": "red", "failed": "red", "idle": "dim"}


def render(
    board: Board, *, now_s: float, source: str = "", error: str = "", footer: str = ""
) -> RenderableType:
    """The whole board, fit for 80 columns.

    Args:
        now_s: Monotonic clock, as that of the arrivals.
        source: Where the messages come from; ``error`` says why none come.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_heading(source, error), Text()]
    if not board.devices:
        parts.append(Text("waiting for the first message …", style="dim"))
    for _, device in sorted(board.devices.items()):
        parts.append(_device_line(device, now_s))
        if device.sample:
            parts.append(_gauges(device))
        parts.append(Text())
        if device.models:
            parts += [_model_table(device), *_notes(device), Text()]
    if board.events:
        parts += [Text("  events", style="dim"), *map(_event_line, board.events), Text()]
    return Group(*parts, Text(footer, style="dim"))


def _heading(source: str, error: str) -> Text:
    from rich.text import Text

    heading = Text("edge", "bold", no_wrap=True, overflow="ellipsis")
    heading.append(f"  {source}", style="not bold dim")
    if error:
        heading.append(f"  ✗ {error}", style="not bold red")
    return heading


def _device_line(device: DeviceBoard, now_s: float) -> Text:
    from rich.text import Text

    state = printable(str(device.status.get("state", "unknown")))
    line = Text.assemble(
        ("● ", _STYLES.get(state, "yellow")), (device.name, "bold"), (f"  {state}", "dim")
    )
    reason = device.status.get("reason")
    if reason and state == "offline":
        line.append(printable(f" ({reason})"), style="dim")
    elif silent_s := device.silent_s(now_s):
        line.append(f", silent for {silent_s:.0f} s", style="yellow")
    line.append("".join(f" · {part}" for part in about(device.info)), style="dim")
    return line


def _gauges(device: DeviceBoard) -> Text:
    from rich.text import Text

    sample = device.sample
    line = Text("  ")
    line.append_text(_gauge("cpu", number(sample.get("cpu_percent"))))
    used = number(sample.get("memory_used_bytes"))
    total = number(sample.get("memory_total_bytes"))
    if used is not None and total:
        line.append("   ")
        line.append_text(_gauge("memory", 100 * used / total))
        line.append(f" of {total / 1e9:.1f} GB", style="dim")
    celsius = number(sample.get("temperature_max_celsius"))
    if celsius is not None:
        line.append(f"   {celsius:.0f} °C", style=_heat(celsius))
    watts = number(sample.get("power_total_watts"))
    if watts is not None:
        line.append(f"   {watts:,.1f} W")
    return line


def _gauge(name: str, percent: float | None) -> Text:
    from rich.text import Text

    gauge = Text(f"{name} ", style="dim")
    if percent is None:
        return gauge.append(NOTHING)
    full = round(_BAR * min(1.0, max(0.0, percent / 100)))
    style = "red" if percent >= 90 else "yellow" if percent >= 70 else "green"
    gauge.append("━" * full, style=style)
    gauge.append("─" * (_BAR - full), style="bright_black")
    return gauge.append(f" {percent:3.0f} %", style="default")


def _heat(celsius: float) -> str:
    return "red" if celsius >= 90 else "yellow" if celsius >= 75 else "default"


def _model_table(device: DeviceBoard) -> Table:
    from rich.table import Table

    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("  model", no_wrap=True, overflow="ellipsis", max_width=19)
    for heading, width in _FIGURES:
        grid.add_column(heading, justify="right", no_wrap=True, width=width)
    grid.add_column("engine", no_wrap=True, overflow="ellipsis", max_width=20)
    names = [name for name, _ in device.models]
    is_offline = device.status.get("state") == "offline"
    for (name, version), row in sorted(device.models.items()):
        label = f"{name} {version}" if names.count(name) > 1 else name
        grid.add_row(*_cells(label, row), style="dim" if is_offline else "")
    return grid


def _cells(label: str, row: ModelRow) -> Iterator[Text | str]:
    from rich.text import Text

    state = str(row.state.get("state") or "ready")
    latency = table(table(row.sample.get("latency_ms")).get("infer"))
    engine = f"{_newest(row, 'engine')} {_newest(row, 'precision')}".strip()
    errors = int(number(row.sample.get("failure_count")) or 0)
    yield Text.assemble(("  ● ", _STYLES.get(state, "yellow")), printable(label))
    yield figure(row.sample.get("success_per_s"), 1)
    yield Text(sparkline(row.rates), style="cyan")
    yield figure(latency.get("p50"), 3)
    yield figure(latency.get("p99"), 3)
    yield Text(f"{errors:,}", style="red" if errors else "dim")
    yield Text(printable(engine or state))


def _newest(row: ModelRow, name: str) -> str:
    return str(row.state.get(name) or row.sample.get(name) or "")


def _notes(device: DeviceBoard) -> Iterator[Text]:
    """Under the models: which failed, are built, or run where they should not, and why."""
    from rich.text import Text

    for (name, version), row in sorted(device.models.items()):
        has_failed = row.state.get("state") == "failed"
        if has_failed or row.state.get("is_fallback") or row.state.get("building"):
            mark, style = ("✗", "red") if has_failed else ("!", "yellow")
            note = printable(f"    {mark} {name} {version}: {row.state.get('why', '')}")
            yield Text(note, style, no_wrap=True, overflow="ellipsis")


def _event_line(event: Arrival) -> Text:
    from rich.text import Text

    return Text.assemble(
        (f"  {clock(event)} ", "dim"),
        f"{who(event)} {said(event)}",
        no_wrap=True,
        overflow="ellipsis",
    )


def sparkline(values: Sequence[float]) -> str:
    """A bar of one character for each value, from nothing to the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in values)

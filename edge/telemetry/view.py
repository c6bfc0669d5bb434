"""What telemetry looks like to a person: a board for a terminal, or a line for each message."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from edge.telemetry.watcher import Arrival

_TREND = 8
_EVENTS = 4
_BAR = 10
_SILENT_AFTER_S = 20.0  # four times the default interval
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLES = {"online": "green", "ready": "green", "offline": "red", "failed": "red", "idle": "dim"}
_NOTHING = "–"

Metrics = Mapping[str, Any]


class ModelRow(msgspec.Struct):
    """The newest that is known of a model; ``rates`` are the last ones, oldest first."""

    state: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    rates: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=_TREND))


class DeviceBoard(msgspec.Struct):
    """The newest that is known of a device, and of its models by name and version."""

    name: str
    status: dict[str, Any] = {}
    info: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    models: dict[tuple[str, str], ModelRow] = {}
    heard_s: float = 0.0


class Board:
    """Everything that a view shows, folded from the messages that arrived."""

    def __init__(self) -> None:
        self.devices: dict[tuple[str, str], DeviceBoard] = {}
        self.events: deque[Arrival] = deque(maxlen=_EVENTS)

    def add(self, arrival: Arrival) -> None:
        key = (arrival.fleet, arrival.device)
        device = self.devices.setdefault(key, DeviceBoard(name="/".join(key)))
        if not arrival.is_retained:
            device.heard_s = max(device.heard_s, arrival.at_s)
        kind = arrival.path.partition("/")[0]
        metrics = arrival.metrics
        if kind == "status":
            device.status = metrics
        elif kind == "info":
            device.info = metrics
        elif kind == "model":
            _row(device, metrics).state = metrics
        elif kind == "event":
            self.events.append(arrival)
        elif arrival.path == "tele/device":
            device.sample = metrics
        elif arrival.path == "tele/model":
            for sample in _dicts(metrics.get("models")):
                row = _row(device, sample)
                row.sample = sample
                row.rates.append(_number(sample.get("success_per_s")) or 0.0)


def render(board: Board, *, source: str = "", error: str = "", now_s: float) -> RenderableType:
    """The whole board, fit for 80 columns.

    Args:
        source: Where the messages come from; ``error`` says why none come.
        now_s: Monotonic clock, as that of the arrivals.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_heading(source, error), Text()]
    if not board.devices:
        parts.append(Text("waiting for the first message …", style="dim"))
    for device in board.devices.values():
        parts += [_device_line(device, now_s), _gauges(device), Text()]
        if device.models:
            parts += [_model_table(device), *_notes(device), Text()]
    if board.events:
        parts += [Text("events", style="dim"), *(_event_line(event) for event in board.events)]
    return Group(*parts)


def plain_line(arrival: Arrival) -> str:
    """One message in one line, for a log or a pipe."""
    when = time.strftime("%H:%M:%S", time.localtime(arrival.envelope.ts_ms / 1000))
    who = f"{arrival.fleet}/{arrival.device}"
    return f"{when} {who} {arrival.path}: {' · '.join(_summary(arrival))}"


def json_line(arrival: Arrival) -> str:
    """One message in one line of JSON: its topic, and its envelope as it came."""
    fields = msgspec.structs.asdict(arrival.envelope)
    line = {"topic": arrival.topic, "retained": arrival.is_retained, **fields}
    return msgspec.json.encode(line).decode()


def _heading(source: str, error: str) -> Text:
    from rich.text import Text

    heading = Text.assemble(("edge", "bold"), "  ", (source, "dim"))
    if error:
        heading.append(f"  ✗ {error}", style="red")
    heading.truncate(80, overflow="ellipsis")
    return heading


def _device_line(device: DeviceBoard, now_s: float) -> Text:
    from rich.text import Text

    state = str(device.status.get("state", "unknown"))
    line = Text.assemble(
        ("● ", _STYLES.get(state, "yellow")), (device.name, "bold"), (f"  {state}", "dim")
    )
    reason = device.status.get("reason")
    silent_s = now_s - device.heard_s
    if reason and state == "offline":
        line.append(f" ({reason})", style="dim")
    elif device.heard_s and silent_s > _SILENT_AFTER_S:
        line.append(f", silent for {silent_s:.0f} s", style="yellow")
    line.append("".join(f" · {part}" for part in _about(device.info)), style="dim")
    return line


def _about(info: Metrics) -> Iterator[str]:
    for name, text in (("edge_version", "edge {}"), ("arch", "{}"), ("cpu_cores", "{} cores")):
        if info.get(name):
            yield text.format(info[name])


def _gauges(device: DeviceBoard) -> Text:
    from rich.text import Text

    sample = device.sample
    line = Text("  ")
    line.append_text(_gauge("cpu", _number(sample.get("cpu_percent")), "%"))
    used, total = (
        _number(sample.get("memory_used_bytes")),
        _number(sample.get("memory_total_bytes")),
    )
    if used is not None and total:
        line.append("   ")
        line.append_text(_gauge("memory", 100 * used / total, "%"))
        line.append(f" of {total / 1e9:.1f} GB", style="dim")
    celsius = _number(sample.get("temperature_max_celsius"))
    if celsius is not None:
        line.append("   temperature ", style="dim")
        line.append(f"{celsius:.0f} °C", style=_heat(celsius))
    return line


def _gauge(name: str, percent: float | None, unit: str) -> Text:
    from rich.text import Text

    gauge = Text(f"{name} ", style="dim")
    if percent is None:
        return gauge.append(_NOTHING)
    full = round(_BAR * min(1.0, max(0.0, percent / 100)))
    style = "red" if percent >= 90 else "yellow" if percent >= 70 else "green"
    gauge.append("━" * full, style=style)
    gauge.append("─" * (_BAR - full), style="bright_black")
    return gauge.append(f" {percent:3.0f} {unit}", style="default")


def _heat(celsius: float) -> str:
    return "red" if celsius >= 90 else "yellow" if celsius >= 75 else "default"


def _model_table(device: DeviceBoard) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("  model", no_wrap=True, overflow="ellipsis", max_width=19)
    for heading, width in (("per s", 8), ("", _TREND), ("p50 ms", 7), ("p99 ms", 7), ("errors", 6)):
        grid.add_column(heading, justify="right", no_wrap=True, width=width)
    grid.add_column("engine", no_wrap=True, overflow="ellipsis", max_width=20)
    for (name, _), row in sorted(device.models.items()):
        state = str(row.state.get("state") or "ready")
        latency = _dict(_dict(row.sample.get("latency_ms")).get("infer"))
        both = {**row.sample, **row.state}
        grid.add_row(
            Text.assemble(("  ● ", _STYLES.get(state, "yellow")), name),
            _figure(row.sample.get("success_per_s"), 1),
            Text(sparkline(row.rates), style="cyan"),
            _figure(latency.get("p50"), 3),
            _figure(latency.get("p99"), 3),
            _errors(row.sample.get("failure_count")),
            Text(f"{both.get('engine', '')} {both.get('precision', '')}".strip() or state),
        )
    return grid


def _notes(device: DeviceBoard) -> Iterator[Text]:
    """Under the models: which failed, or run where they should not, and why."""
    from rich.text import Text

    for (name, version), row in sorted(device.models.items()):
        why = str(row.state.get("why", ""))
        if row.state.get("state") == "failed":
            yield Text(f"    ✗ {name} {version}: {why}", "red", no_wrap=True, overflow="ellipsis")
        elif row.state.get("is_fallback"):
            yield Text(
                f"    ! {name} {version}: {why}", "yellow", no_wrap=True, overflow="ellipsis"
            )


def _event_line(event: Arrival) -> Text:
    from rich.text import Text

    return Text(plain_line(event), no_wrap=True, overflow="ellipsis")


def sparkline(values: deque[float] | list[float]) -> str:
    """A bar of one character for each value, from nothing to the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in values)


def _summary(arrival: Arrival) -> Iterator[str]:
    metrics = arrival.metrics
    kind = arrival.path.partition("/")[0]
    if arrival.path == "tele/device":
        yield from _device_figures(metrics)
    elif arrival.path == "tele/model":
        for sample in _dicts(metrics.get("models")):
            yield " ".join(_model_figures(sample))
    elif kind == "event" and "to" in metrics and "name" in metrics:
        yield f"{metrics['name']} {metrics.get('from')} → {metrics['to']}"
        if metrics.get("why"):
            yield str(metrics["why"])
    elif kind in ("status", "model"):
        yield from (
            str(metrics[key]) for key in ("state", "reason", "variant", "why") if metrics.get(key)
        )
    elif kind == "info":
        yield from _about(metrics)
    else:
        yield msgspec.json.encode(metrics).decode()


def _device_figures(sample: Metrics) -> Iterator[str]:
    units = {
        "cpu_percent": "cpu {:.0f} %",
        "memory_used_percent": "memory {:.0f} %",
        "temperature_max_celsius": "{:.0f} °C",
    }
    for name, text in units.items():
        value = _number(sample.get(name))
        if value is not None:
            yield text.format(value)


def _model_figures(sample: Metrics) -> Iterator[str]:
    yield str(sample.get("name", "?"))
    latency = _dict(_dict(sample.get("latency_ms")).get("infer"))
    rate = _number(sample.get("success_per_s"))
    if rate is not None:
        yield f"{rate:.1f}/s"
    if latency:
        yield f"p50 {_figure(latency.get('p50'), 3)} ms p99 {_figure(latency.get('p99'), 3)} ms"
    if sample.get("failure_count"):
        yield f"{sample['failure_count']} errors"


def _row(device: DeviceBoard, metrics: Metrics) -> ModelRow:
    key = (str(metrics.get("name", "?")), str(metrics.get("version", "")))
    return device.models.setdefault(key, ModelRow())


def _figure(value: object, decimals: int) -> str:
    """At most five digits: 0.412, 41.20, 1,204."""
    number = _number(value)
    if number is None:
        return _NOTHING
    for limit in (10, 100, 1000):
        if abs(number) >= limit:
            decimals = max(0, decimals - 1)
    return f"{number:,.{decimals}f}"


def _errors(value: object) -> Text:
    from rich.text import Text

    count = int(_number(value) or 0)
    return Text(f"{count:,}", style="red" if count else "dim")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

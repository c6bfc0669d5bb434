"""One line for each message of telemetry: for a log, a pipe, or another program."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from edge.telemetry.watcher import Arrival

NOTHING = "–"

Metrics = Mapping[str, Any]


def plain_line(arrival: Arrival) -> str:
    """One message in one line, for a log or a pipe."""
    return f"{clock(arrival)} {who(arrival)} {printable(arrival.path)}: {said(arrival)}"


def json_line(arrival: Arrival) -> str:
    """One message in one line of JSON: its topic, and its envelope as it came."""
    fields = msgspec.structs.asdict(arrival.envelope)
    line = {"topic": arrival.topic, "retained": arrival.is_retained, **fields}
    return msgspec.json.encode(line).decode()


def clock(arrival: Arrival) -> str:
    """When it was made, by the sender's clock, in our time zone."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(arrival.envelope.ts_ms / 1000))
    except (OverflowError, ValueError, OSError):  # no such time
        return "--:--:--"


def who(arrival: Arrival) -> str:
    return printable(f"{arrival.fleet}/{arrival.device}")


def said(arrival: Arrival) -> str:
    """What it says, in short."""
    return printable(" · ".join(_summary(arrival)))


def _summary(arrival: Arrival) -> Iterator[str]:
    metrics = arrival.metrics
    summary = _SUMMARIES.get(arrival.path) or _SUMMARIES.get(arrival.path.partition("/")[0])
    if summary is not None:
        yield from summary(metrics)
    elif arrival.path.startswith("event/") and "to" in metrics and "name" in metrics:
        yield f"{metrics['name']} {metrics.get('from')} → {metrics['to']}"
        yield from _texts(metrics, "why")
    else:
        yield msgspec.json.encode(metrics).decode()


def _state(metrics: Metrics) -> Iterator[str]:
    return _texts(metrics, "state", "reason", "variant", "why")


def _command(metrics: Metrics) -> Iterator[str]:
    yield " ".join(_texts(metrics, "name", "id", "model", "status"))
    yield from _texts(metrics, "reason")


def _snapshot(metrics: Metrics) -> Iterator[str]:
    """Without its picture, and what was made of that: a mask has millions of pixels."""
    yield " ".join(_texts(metrics, "name", "version"))
    yield f"{metrics.get('kind')}, {number(metrics.get('size_bytes')) or 0.0:,.0f} bytes"


def _gap(metrics: Metrics) -> Iterator[str]:
    gap = table(metrics.get("gap"))
    if gap.get("count") != 0:
        yield f"lost messages: {gap.get('count') or 'not known how many'}"
    yield from _texts(gap, "reason", "detail")


def _device_figures(sample: Metrics) -> Iterator[str]:
    units = {
        "cpu_percent": "cpu {:.0f} %",
        "memory_used_percent": "memory {:.0f} %",
        "temperature_max_celsius": "{:.0f} °C",
        "power_total_watts": "{:.1f} W",
    }
    for name, text in units.items():
        value = number(sample.get(name))
        if value is not None:
            yield text.format(value)
    if sample.get("power_level") not in (None, "free"):
        yield f"held back: {sample.get('power_cause')}"


def _models(metrics: Metrics) -> Iterator[str]:
    return (" ".join((name, *_model_figures(sample))) for name, sample in _named(metrics))


def _named(metrics: Metrics) -> Iterator[tuple[str, Metrics]]:
    """A row for each model, and its name: with the version where there are several of it."""
    rows = tables(metrics.get("models"))
    counts = Counter(str(row.get("name", "?")) for row in rows)
    for row in rows:
        name = str(row.get("name", "?"))
        yield f"{name} {row.get('version', '?')}" if counts[name] > 1 else name, row


def _model_figures(sample: Metrics) -> Iterator[str]:
    latency = table(table(sample.get("latency_ms")).get("infer"))
    rate = number(sample.get("success_per_s"))
    if rate is not None:
        yield f"{rate:.1f}/s"
    if latency:
        yield f"p50 {figure(latency.get('p50'), 3)} ms p99 {figure(latency.get('p99'), 3)} ms"
    if sample.get("failure_count"):
        yield f"{sample['failure_count']} errors"


def _health(metrics: Metrics) -> Iterator[str]:
    """What is watched of each model, and how it stands."""
    for name, row in _named(metrics):
        watched = (
            f"{aspect}: {row[aspect]}"
            for aspect in ("drift", "latency", "accuracy")
            if row.get(aspect) not in (None, "off")
        )
        yield " ".join((name, *watched))


def _cost_figures(metrics: Metrics) -> Iterator[str]:
    joules = number(metrics.get("energy_joules"))
    if joules is None:
        yield "no energy known"
    else:
        yield f"{joules:,.0f} J in {number(metrics.get('metered_s')) or 0.0:,.0f} s"
    for name, row in _named(metrics):
        each = number(row.get("joules_per_inference"))
        if each is not None:
            yield f"{name} {each:.3g} J each"


def about(info: Metrics) -> Iterator[str]:
    """Version, architecture and cores of a device, as far as they are known."""
    for name, text in (("edge_version", "edge {}"), ("arch", "{}"), ("cpu_cores", "{} cores")):
        if info.get(name):
            yield printable(text.format(info[name]))


_SUMMARIES: Mapping[str, Callable[[Metrics], Iterator[str]]] = {
    "status": _state,
    "model": _state,
    "info": about,
    "cost": _cost_figures,
    "tele/cost": _cost_figures,
    "tele/device": _device_figures,
    "tele/health": _health,
    "tele/model": _models,
    "event/command": _command,
    "event/gap": _gap,
    "snapshot": _snapshot,
}
"""By the path of the topic, or its first part."""


def _texts(metrics: Metrics, *names: str) -> Iterator[str]:
    return (str(metrics[name]) for name in names if metrics.get(name))


def figure(value: object, decimals: int) -> str:
    """At most five digits: 0.412, 41.20, 1,204."""
    given = number(value)
    if given is None:
        return NOTHING
    for limit in (10, 100, 1000):
        if abs(given) >= limit:
            decimals = max(0, decimals - 1)
    return f"{given:,.{decimals}f}"


def number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:
        return None


def table(value: object) -> Metrics:
    return value if isinstance(value, dict) else {}


def tables(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def printable(text: str) -> str:
    """Without what would move the cursor or worse: messages come from a network."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)

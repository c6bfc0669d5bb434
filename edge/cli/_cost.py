"""What ``edge cost`` prints: figures that somebody told, none of which need be there."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from edge.cli import _output
from edge.telemetry.lines import NOTHING, number, printable, tables

Metrics = Mapping[str, Any]

_IDLE_SOURCES = {
    "measured": "measured while nothing ran",
    "settings": "by [cost] idle_watts",
    "profile": "by the device profile",
}
_WIDEST = 9  # characters of an amount below 1
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def show(where: str, metrics: Metrics) -> None:
    """Print all that is known, fit for 80 columns."""
    _output.title(printable(where), _since(metrics))
    _output.facts(_facts(metrics))
    models = tables(metrics.get("models"))
    if not models:
        _output.say("no model ran yet")
        return
    _output.say()
    _show_energy(models)
    currency = _text(metrics, "currency")
    if currency:
        _output.say()
        _show_money(models, currency)
    saving = [row for row in models if _savings(row)]
    if saving:
        _output.say()
        _output.table(
            "saved",
            ("model", "by the cache", "by batches"),
            [(_name(row), *_savings(row).values()) for row in saving],
        )


def _facts(metrics: Metrics) -> Iterable[tuple[str, str]]:
    yield "energy", _energy(metrics)
    yield "known by", _knowledge(metrics)
    idle_watts = number(metrics.get("idle_watts"))
    source = _IDLE_SOURCES.get(_text(metrics, "idle_source"))
    idle = f"{idle_watts:.3g} W, {source}" if idle_watts is not None and source else "not known yet"
    if number(metrics.get("energy_joules")) is not None:
        yield "idle power", idle
        yield "no model's", f"{_unit(metrics.get('idle_joules'), 'J')} of the energy"
    busy = number(metrics.get("busy_percent"))
    if busy is not None:
        yield "busy", f"{busy:.1f} % of the time"
    currency = _text(metrics, "currency")
    if currency:
        yield "spent", _spent(metrics, currency)


def _energy(metrics: Metrics) -> str:
    why = _text(metrics, "energy_why")
    if number(metrics.get("energy_joules")) is None:
        return f"not known: {why}" if why else "not known yet"
    much = _unit(metrics.get("energy_joules"), "J")
    error = number(metrics.get("energy_error_percent"))
    much += "" if error is None else f" ± {error:.2g} %"
    return f"{much}, {_unit(metrics.get('power_mean_watts'), 'W')} on average"


def _knowledge(metrics: Metrics) -> str:
    """What the energy is of, and how that is known."""
    if number(metrics.get("energy_joules")) is None:
        return ""
    source = _text(metrics, "energy_source")
    if source == "estimated":
        return f"an estimate: {_text(metrics, 'energy_why')}"
    how = "a counter" if source == "counter" else "power summed up"
    rate = number(metrics.get("energy_samples_per_s")) or 0.0
    covered = number(metrics.get("energy_covered_percent")) or 0.0
    rail = _text(metrics, "energy_rail")
    return f"{rail}: {how}, read {rate:.1f}/s, {covered:.1f} % of the time"


def _show_energy(models: list[dict[str, Any]]) -> None:
    rows = [
        (
            _name(row),
            _count(row.get("inference_count")),
            _unit(row.get("busy_s"), "s"),
            _unit(row.get("energy_joules"), "J"),
            _unit(row.get("joules_per_inference"), "J"),
            _unit(row.get("joules_per_inference_above_idle"), "J"),
        )
        for row in models
    ]
    columns = ("model", "inferences", "busy", "energy", "per inference", "above idle")
    _output.table("", columns, rows, right=columns[1:])


def _show_money(models: list[dict[str, Any]], currency: str) -> None:
    suffix = currency.lower()
    names = [
        f"{part}cost_per_million{load}"
        for load in ("", "_full_load")
        for part in ("", "energy_", "device_")
    ]
    rows = [
        (_name(row), *(_amount(row.get(f"{name}_{suffix}")) for name in names)) for row in models
    ]
    columns = ("model", "now", "energy", "device", "full", "energy", "device")
    title = f"{currency} per million, as busy as so far (now) or always (full)"
    _output.table(title, columns, rows, right=columns[1:])


def _savings(row: Metrics) -> dict[str, str]:
    """By the cache and by batches; empty if there are none."""
    answers = number(row.get("cache_saved_count"))
    seconds = number(row.get("batch_saved_s"))
    if not answers and seconds is None:
        return {}
    cache, batches = NOTHING, NOTHING
    if answers:
        cache = f"{_count(answers)} answers, {_unit(row.get('cache_saved_joules'), 'J')}"
    if seconds is not None:
        batches = f"{_unit(seconds, 's')}, {_unit(row.get('batch_saved_joules'), 'J')}"
    return {"cache": cache, "batches": batches}


def _spent(metrics: Metrics, currency: str) -> str:
    suffix = currency.lower()
    parts = [
        f"{_amount(value)} {currency} for {what}"
        for what, name in (("energy", "energy_cost"), ("the device", "device_cost"))
        if (value := number(metrics.get(f"{name}_{suffix}"))) is not None
    ]
    return printable(", ".join(parts))


def _since(metrics: Metrics) -> str:
    since_ms, seconds = number(metrics.get("since_ms")), number(metrics.get("metered_s"))
    if since_ms is None or seconds is None:
        return ""
    try:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(since_ms / 1000))
    except (OverflowError, ValueError, OSError):  # no such time
        began = "?"
    return f"since {began}, {_duration(seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def _name(row: Metrics) -> str:
    return printable(f"{row.get('name', '?')} {row.get('version', '')}").strip()


def _text(metrics: Metrics, name: str) -> str:
    value = metrics.get(name)
    return printable(value) if isinstance(value, str) else ""


def _count(value: object) -> str:
    found = number(value)
    return NOTHING if found is None else f"{found:,.0f}"


def _unit(value: object, unit: str) -> str:
    """Three digits, with a prefix: ``40.6 kJ``."""
    found = number(value)
    if found is None:
        return NOTHING
    if found == 0.0:
        return f"0 {unit}"
    size, prefix = next(
        (each for each in _PREFIXES if abs(found) >= 0.9995 * each[0]), _PREFIXES[-1]
    )
    scaled = found / size
    decimals = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:,.{decimals}f} {prefix}{unit}"


def _amount(value: object) -> str:
    """Money: three digits at least, and no more than cents of large amounts."""
    found = number(value)
    if found is None:
        return NOTHING
    if abs(found) >= 1 or found == 0:
        return f"{found:,.2f}"
    digits = f"{found:.{2 - math.floor(math.log10(abs(found)))}f}"
    return digits if len(digits) <= _WIDEST else "≈ 0"

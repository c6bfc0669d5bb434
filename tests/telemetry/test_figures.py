"""The one metric model: what names say of values, and all reports as single values."""

from __future__ import annotations

import pytest

from edge.telemetry.figures import Figure, Figures
from edge.telemetry.quantities import NUMBER, TEXT, TRUTH, Quantity, Value, describe
from edge.telemetry.reports import Report

STATE = {"name": "digits", "version": "2", "state": "ready"}
DIGITS = Report(("model", "digits"), STATE, "retained")


def _values(figures: Figures) -> dict[tuple[str, str], Value | None]:
    return {(one.model, one.name): one.value for one in figures}


def _of(figures: Figures, name: str, model: str = "") -> Figure:
    (figure,) = (one for one in figures if (one.model, one.name) == (model, name))
    return figure


@pytest.mark.parametrize(
    ("keys", "value", "quantity"),
    [
        (("cpu_percent",), 3.5, Quantity(unit="%")),
        (("percent",), 43, Quantity(unit="%")),
        (("temperature_celsius", "cpu-thermal"), 49.9, Quantity("number", "°C", "temperature")),
        (("power_watts", "VDD_IN"), 4.9, Quantity("number", "W", "power")),
        (("memory_used_bytes",), 1, Quantity("integer", "B", "data_size")),
        (("outbox_written_bytes",), 1, Quantity("integer", "B", "data_size", True)),
        (("energy_joules",), 1.5, Quantity("number", "J", "energy", True)),
        (("joules_per_inference_above_idle",), 0.1, Quantity(unit="J")),
        (("energy_cost_eur",), 0.1, Quantity("number", "EUR", "monetary", True)),
        (("cost_per_million_full_load_usd",), 0.1, Quantity(unit="USD")),
        (("success_count",), 7, Quantity("integer", is_cumulative=True)),
        (("evictions", "room"), 7, Quantity("integer", is_cumulative=True)),
        (("success_per_s",), 20.0, Quantity(unit="1/s")),
        (("latency_ms", "infer", "p99"), 1.2, Quantity("number", "ms", "duration")),
        (("power_since_ms",), 1_700_000_000_000, Quantity("time", measures="timestamp")),
        (("busy_s",), 5.0, Quantity("number", "s", "duration", True)),
        (("uptime_s",), 5, Quantity("number", "s", "duration")),
        (("clock_now_mhz", "cpu0"), 1500, Quantity("number", "MHz", "frequency")),
        (("load_1m",), 0.4, NUMBER),
        (("losses",), 3, NUMBER),  # ends in s, and not in _s
        (("is_fallback",), False, TRUTH),
        (("throttle",), "thermal", TEXT),
    ],
)
def test_a_name_says_what_its_value_is(
    keys: tuple[str, ...], value: Value, quantity: Quantity
) -> None:
    assert describe(keys, value) == quantity


def test_the_device_and_its_models_are_told_apart() -> None:
    figures = Figures()
    row = {"name": "digits", "version": "2", "success_count": 3, "engine": "null"}
    figures.take(
        [
            Report(("tele", "device"), {"cpu_percent": 1.0, "temperature_celsius": {"cpu": 50.0}}),
            DIGITS,
            Report(("tele", "model"), {"window_s": 5.0, "models": [row]}),
            Report(("tele", "health"), {"models": [{**row, "drift": "stable"}]}),
            Report(("event", "power"), {"to": "rate"}, "event"),
        ]
    )
    assert _values(figures) == {
        ("", "device/cpu_percent"): 1.0,
        ("", "device/temperature_celsius/cpu"): 50.0,
        ("digits", "version"): "2",
        ("digits", "state"): "ready",
        ("digits", "success_count"): 3,
        ("digits", "health/success_count"): 3,
        ("digits", "health/engine"): "null",
        ("digits", "health/drift"): "stable",
    }
    assert _of(figures, "success_count", "digits").is_of_row
    assert not _of(figures, "state", "digits").is_of_row


def test_of_several_versions_the_one_that_serves_is_told() -> None:
    figures = Figures()
    rows = [
        {"name": "digits", "version": version, "success_count": count}
        for version, count in (("1", 10), ("2", 20), ("3", 30))
    ]
    figures.take([DIGITS, Report(("tele", "model"), {"models": rows})])
    assert _of(figures, "success_count", "digits").value == 20


def test_what_is_no_longer_told_is_not_known_and_keeps_its_quantity() -> None:
    figures = Figures()
    figures.take([Report(("tele", "device"), {"temperature_celsius": {"a": 1.0, "b": 2.0}})])
    figures.take([Report(("tele", "device"), {"temperature_celsius": {"a": 1.5, "b": None}})])
    assert _of(figures, "device/temperature_celsius/a").value == 1.5
    gone = _of(figures, "device/temperature_celsius/b")
    assert (gone.value, gone.quantity.unit) == (None, "°C")


def test_a_model_that_is_gone_takes_its_figures_along() -> None:
    figures = Figures()
    figures.take([DIGITS, Report(("tele", "device"), {"cpu_percent": 1.0})])
    figures.take([Report(("model", "digits"), {}, "retained")])
    assert _values(figures) == {("", "device/cpu_percent"): 1.0}
    assert figures.versions == {}


def test_what_is_told_in_two_places_is_one_figure_of_the_first() -> None:
    figures = Figures()
    sample, kept = (
        Report(("tele", "cost"), {"energy_joules": 1.0}),
        Report(("cost",), {"energy_joules": 0.5}, "retained"),
    )
    figures.take([sample, kept])
    figures.take([kept])
    assert _values(figures) == {("", "cost/energy_joules"): 1.0}
    assert _of(figures, "cost/energy_joules").path == ("tele", "cost")


def test_rows_without_a_name_and_lists_of_texts_are_no_models() -> None:
    figures = Figures()
    figures.take(
        [Report(("tele", "device"), {"models": [{"x_count": 1}, 3], "missing": ["a", "b"]})]
    )
    assert _values(figures) == {("", "device/missing"): "a, b"}

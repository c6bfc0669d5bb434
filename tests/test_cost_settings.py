"""``[cost]``: what makes no sense is named, with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.errors import SettingsError
from edge.settings import Cost, load_settings


def test_prices_are_read_and_a_variable_goes_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(
        '[cost]\ncurrency = "EUR"\nper_kwh = 0.32\ndevice_price = 499\ndevice_years = 5\n'
    )
    settings = load_settings(path, environ={"EDGE_COST_PER_KWH": "0.4"})
    assert settings.cost == Cost("EUR", 0.4, 499.0, 5.0)
    assert load_settings(path, environ={}).cost.per_kwh == 0.32


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("per_kwh = 0.32", 'currency = "EUR"'),
        ('currency = "euro"\nper_kwh = 0.32', "code of three letters"),
        ('currency = "€"', "code of three letters"),
        ('currency = "EUR"\ndevice_price = 499', "device_years"),
        ("device_years = 5", "device_price"),
        ('currency = "EUR"\nper_kwh = -0.1', "per_kwh"),
        ('currency = "EUR"\nper_kwh = nan', "per_kwh"),
        ('currency = "EUR"\nper_kwh = inf', "per_kwh"),
        ('currency = "EUR"\nper_kwh = "cheap"', "per_kwh"),
        ("idle_watts = 10\nbusy_watts = 5", "less than idle_watts"),
        ('profile = "jetson-orin-nanno-8gb"', "did you mean jetson-orin-nano-8gb"),
        ('profile = "host"', "does not say what that device draws"),
        ("watts = 5", "watts"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, wrong: str, said: str) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(f"[cost]\n{wrong}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ={})
    assert said in str(caught.value)
    assert "edge.toml" in str(caught.value)

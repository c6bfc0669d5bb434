"""Energy is read from what Linux counts, over the wrap of its counters."""

from __future__ import annotations

import pytest

from edge.conversion.energy import EnergyCounter


def _zone(root, name, energy, span=1_000_000):  # type: ignore[no-untyped-def]
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")


def test_packages_are_added_up_and_their_parts_left_out(tmp_path):
    for package in (0, 1):
        _zone(tmp_path, f"intel-rapl:{package}", 1000)
    _zone(tmp_path, "intel-rapl:0:0", 500)
    counter = EnergyCounter(tmp_path)
    before = counter.joules()
    _zone(tmp_path, "intel-rapl:0", 401_000)
    _zone(tmp_path, "intel-rapl:1", 101_000)
    assert counter.since(before) == pytest.approx(0.5)


def test_a_counter_that_started_again_is_understood(tmp_path):
    _zone(tmp_path, "intel-rapl:0", 999_000, span=999_999)
    counter = EnergyCounter(tmp_path)
    before = counter.joules()
    _zone(tmp_path, "intel-rapl:0", 1000, span=999_999)
    assert counter.since(before) == pytest.approx(0.002)


def test_without_counters_there_is_no_energy(tmp_path):
    counter = EnergyCounter(tmp_path)
    assert not counter.is_available
    assert counter.since(counter.joules()) == 0.0

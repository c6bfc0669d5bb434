"""Energy is read from what Linux counts, over the end of its counters and over what resets them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge.sensors import DeviceSensors, device_sensors
from edge.sensors.x86 import EnergyCounters, energy_counters

SPAN = 262_143_328_850


class Machine:
    """Zones whose counters a test sets."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def zone(self, folder: str, name: str, microjoules: int) -> None:
        path = self.root / "sys/class/powercap" / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{SPAN}\n")
        (path / "energy_uj").write_text(f"{microjoules}\n")

    def counters(self) -> EnergyCounters:
        return energy_counters(self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_packages_and_their_memory_are_added_up_and_what_is_within_them_is_left_out(
    machine: Machine,
) -> None:
    for package in (0, 1):
        machine.zone(f"intel-rapl:{package}", f"package-{package}", 1000)
    machine.zone("intel-rapl:0:0", "core", 500)
    machine.zone("intel-rapl:0:1", "dram", 0)
    counters = machine.counters()
    first = counters.read(0.0)
    assert (first.total_joules, first.total_watts) == (0.0, None)  # watts need a beginning
    machine.zone("intel-rapl:0", "package-0", 401_000)
    machine.zone("intel-rapl:1", "package-1", 101_000)
    machine.zone("intel-rapl:0:0", "core", 400_000)
    machine.zone("intel-rapl:0:1", "dram", 50_000)
    second = counters.read(0.5)
    assert second.total_rail == "package-0+package-0-dram+package-1"
    assert second.total_joules == pytest.approx(0.55)
    assert second.total_watts == pytest.approx(1.1)


def test_platform_is_the_whole_where_it_is_counted_and_nothing_counts_twice(
    machine: Machine,
) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    machine.zone("intel-rapl:1", "psys", 0)
    counters = machine.counters()
    counters.read(0.0)
    machine.zone("intel-rapl:0", "package-0", 8_000_000)
    machine.zone("intel-rapl:1", "psys", 21_000_000)
    reading = counters.read(1.0)
    assert (reading.total_rail, reading.total_joules) == ("psys", 21.0)


def test_counter_that_passed_its_end_counts_on(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", SPAN - 1_000_000)
    counters = machine.counters()
    counters.read(0.0)
    machine.zone("intel-rapl:0", "package-0", 1_999_999)
    assert counters.read(1.0).total_joules == pytest.approx(3.0)


def test_counter_that_was_set_back_is_not_taken_for_one_that_passed_its_end(
    machine: Machine,
) -> None:
    machine.zone("intel-rapl:0", "package-0", 100_000_000)
    counters = machine.counters()
    counters.read(0.0)
    machine.zone("intel-rapl:0", "package-0", 5_000_000)  # as after a sleep: not 262,048 joules
    assert counters.read(1.0).total_joules is None
    machine.zone("intel-rapl:0", "package-0", 15_000_000)
    assert counters.read(2.0).total_joules == pytest.approx(10.0)


def test_counter_that_may_have_passed_its_end_unseen_begins_anew(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    counters = machine.counters()
    counters.read(0.0)
    machine.zone("intel-rapl:0", "package-0", 90_000_000)
    assert counters.read(600.0).total_joules is None
    assert counters.read(601.0).total_joules == 0.0


def test_whole_is_not_told_while_a_part_of_it_can_not_be_read(machine: Machine) -> None:
    for package in (0, 1):
        machine.zone(f"intel-rapl:{package}", f"package-{package}", 0)
    counters = machine.counters()
    counters.read(0.0)
    (machine.root / "sys/class/powercap/intel-rapl:1/energy_uj").write_text("nonsense")
    machine.zone("intel-rapl:0", "package-0", 5_000_000)
    reading = counters.read(1.0)
    assert (reading.total_joules, reading.total_watts) == (None, None)
    assert reading.power_watts == {"package-0": 5.0}


def test_without_counters_there_is_no_energy(machine: Machine) -> None:
    reading = machine.counters().read(0.0)
    assert (reading.total_joules, reading.total_rail) == (None, "")


def test_input_that_can_not_be_read_is_not_replaced_by_rails_within_it(tmp_path: Path) -> None:
    root = shutil.copytree(
        Path(__file__).parent.parent / "fakes/jetson-orin-nano", tmp_path / "nano"
    )
    sensors = device_sensors(root)
    assert sensors.read(0.0).total_watts == 4.935
    current = root / "sys/class/hwmon/hwmon1/curr1_input"
    text = current.read_text()
    current.write_text("EAGAIN\n")
    reading = sensors.read(1.0)
    assert (reading.total_watts, reading.total_rail) == (None, "VDD_IN")
    assert reading.power_watts == {"VDD_CPU_GPU_CV": 0.769, "VDD_SOC": 1.456}
    current.write_text(text)
    assert sensors.read(2.0).total_watts == 4.935


@pytest.mark.parametrize(
    ("name", "rail", "has_counter"),
    [
        ("jetson-orin-nano", "VDD_IN", False),
        ("jetson-thor", "VIN", False),
        ("x86-pc", "psys", True),
        ("raspberry-pi-5", "", False),
    ],
)
def test_device_says_which_rail_its_total_is_of(name: str, rail: str, has_counter: bool) -> None:
    sensors: DeviceSensors = device_sensors(Path(__file__).parent.parent / "fakes" / name)
    reading = sensors.read(0.0)
    assert reading.total_rail == rail
    assert (reading.total_joules is not None) == has_counter

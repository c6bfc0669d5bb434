"""What Intel's GPU and NPU drivers count, on files as their documentation names them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge.sensors import Clock, Reading, device_sensors

FAKES = Path(__file__).parent.parent / "fakes"
CARD = "sys/class/drm/card0"
ASLEEP = f"{CARD}/gt/gt0/rc6_residency_ms"
NPU = "sys/class/accel/accel0/device"


class Machine:
    """A copy of the tree of a PC, read once a second."""

    def __init__(self, root: Path) -> None:
        self.root = shutil.copytree(FAKES / "x86-pc", root)
        self.sensors = device_sensors(root)
        self._now_s = 0.0

    def read(self) -> Reading:
        self._now_s += 1.0
        return self.sensors.read(self._now_s)

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "pc")


@pytest.fixture
def xe(machine: Machine) -> Machine:
    """With the newer driver, whose render and media parts sleep apart."""
    shutil.rmtree(machine.root / CARD / "gt")
    for part in ("gt0", "gt1"):
        machine.write(f"{CARD}/device/tile0/{part}/gtidle/idle_residency_ms", 5000)
    machine.write(f"{CARD}/device/tile0/gt0/gtidle/idle_status", "gt-c6")
    return machine


def test_gpu_works_when_it_does_not_sleep(machine: Machine) -> None:
    assert "gpu_percent" not in machine.read().figures  # a rate needs a beginning
    machine.write(ASLEEP, 81_234 + 250)
    reading = machine.read()
    assert reading.figures["gpu_percent"] == 75.0
    assert reading.figures["gpu_load_percent"] == {"card0": 75.0}
    machine.write(ASLEEP, 81_234 + 250 + 1003)  # it counts by a clock of its own
    assert machine.read().figures["gpu_percent"] == 0.0
    machine.write(ASLEEP, 20)  # set back
    assert "gpu_percent" not in machine.read().figures


def test_gpu_that_may_not_sleep_has_no_load(machine: Machine) -> None:
    machine.write(f"{CARD}/gt/gt0/rc6_enable", 0)
    machine.read()
    assert "gpu_percent" not in machine.read().figures


def test_busiest_part_of_a_gpu_counts(xe: Machine) -> None:
    xe.read()
    xe.write(f"{CARD}/device/tile0/gt0/gtidle/idle_residency_ms", 5900)
    xe.write(f"{CARD}/device/tile0/gt1/gtidle/idle_residency_ms", 5400)
    assert xe.read().figures["gpu_load_percent"] == {"card0": 60.0}


def test_gpu_that_is_off_is_idle_and_is_not_woken_up(xe: Machine) -> None:
    xe.read()
    xe.write(f"{CARD}/device/power/runtime_status", "suspended")
    for part in ("gt0", "gt1"):
        (xe.root / f"{CARD}/device/tile0/{part}/gtidle/idle_residency_ms").unlink()
    assert xe.read().figures["gpu_percent"] == 0.0
    xe.write(f"{CARD}/device/power/runtime_status", "active")
    for part in ("gt0", "gt1"):
        xe.write(f"{CARD}/device/tile0/{part}/gtidle/idle_residency_ms", 9000)
    assert "gpu_percent" not in xe.read().figures  # how long it was on is not known


def test_npu_tells_its_load_memory_and_clock(machine: Machine) -> None:
    machine.read()
    machine.write(f"{NPU}/npu_busy_time_us", 420_000)
    machine.write(f"{NPU}/npu_current_frequency_mhz", 1400)
    reading = machine.read()
    assert reading.figures["npu_percent"] == 42.0
    assert reading.figures["npu_memory_used_bytes"] == 37_748_736
    assert reading.clocks["npu-0"] == Clock(1_400_000_000, None, 1_950_000_000)


def test_npu_of_an_older_kernel_tells_its_load_alone(machine: Machine) -> None:
    for name in ("memory_utilization", "current_frequency_mhz", "max_frequency_mhz"):
        (machine.root / NPU / f"npu_{name}").unlink()
    machine.read()
    machine.write(f"{NPU}/npu_busy_time_us", 420_000)
    reading = machine.read()
    assert reading.figures["npu_percent"] == 42.0
    assert "npu_memory_used_bytes" not in reading.figures
    assert "npu-0" not in reading.clocks

"""Sensors, on the trees of three machines."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge.sensors import DeviceSensors, Reading, device_sensors
from edge.sensors._files import Tree
from edge.sensors.linux import LinuxSensors

FAKES = Path(__file__).parent.parent / "fakes"
DEVICES = sorted(path.name for path in FAKES.iterdir() if (path / "sys").is_dir())
ZONE = "sys/class/thermal/thermal_zone0/temp"


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return _copy(request.param, tmp_path)


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    return _copy("raspberry-pi-5", tmp_path)


def _copy(name: str, into: Path) -> Path:
    return shutil.copytree(FAKES / name, into / name)


def _metrics(root: Path) -> dict[str, Any]:
    return device_sensors(root).read().metrics()


def _celsius(root: Path) -> dict[str, float]:
    return device_sensors(root).read().temperature_celsius


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "x86-pc",
            {
                "acpitz": 27.8,
                "x86-pkg-temp": 46.0,
                "nvme-composite": 38.9,
                "nvme-sensor-1": 38.9,
                "coretemp-package-id-0": 46.0,
            },
        ),
        ("raspberry-pi-5", {"cpu-thermal": 49.9, "rp1-adc": 52.2}),
        (
            "jetson-orin-nano",
            {
                "cpu-thermal": 51.1,
                "soc0-thermal": 49.8,
                "soc1-thermal": 50.1,
                "soc2-thermal": 48.8,
                "tj-thermal": 51.1,
            },
        ),
    ],
)
def test_temperatures_bear_names_and_no_numbers(name: str, expected: dict[str, float]) -> None:
    metrics = _metrics(FAKES / name)
    assert metrics["temperature_celsius"] == expected
    assert metrics["temperature_max_celsius"] == max(expected.values())


def test_memory_and_load_are_those_of_the_tree() -> None:
    metrics = _metrics(FAKES / "raspberry-pi-5")
    assert metrics["memory_total_bytes"] == 8245920 * 1024
    assert metrics["memory_used_bytes"] == (8245920 - 7010448) * 1024
    assert metrics["memory_used_percent"] == 15.0
    assert metrics["swap_used_bytes"] == 0
    assert (metrics["load_1m"], metrics["load_5m"], metrics["load_15m"]) == (0.15, 0.22, 0.18)
    assert metrics["uptime_s"] == 5612
    assert metrics["process_rss_bytes"] == 61040 * 1024


def test_disk_is_the_one_of_the_root(tmp_path: Path) -> None:
    metrics = _metrics(tmp_path)
    assert 0 < metrics["disk_free_bytes"] <= metrics["disk_total_bytes"]


def test_rates_are_since_the_last_sample(pi: Path) -> None:
    sensors = device_sensors(pi)
    first = sensors.read().metrics()
    assert "cpu_percent" not in first
    assert "process_cpu_percent" not in first
    # user +150, system +50, idle +170, iowait +30: 200 of 400 ticks were work
    (pi / "proc/stat").write_text("cpu  91354 310 40172 2110610 3051 0 1877 0 0 0\n")
    (pi / "proc/uptime").write_text("5614.31 21108.44\n")
    stat = (pi / "proc/self/stat").read_text()
    assert " 402 98 " in stat
    ticks = os.sysconf("SC_CLK_TCK")
    (pi / "proc/self/stat").write_text(stat.replace(" 402 98 ", f" {402 + ticks} 98 "))
    second = sensors.read().metrics()
    assert second["cpu_percent"] == 50.0
    assert second["process_cpu_percent"] == 50.0  # one second of work in two


def test_sensor_is_found_wherever_it_sits(pi: Path) -> None:
    thermal = pi / "sys/class/thermal"
    (thermal / "thermal_zone0").rename(thermal / "thermal_zone7")
    assert _celsius(pi) == {"cpu-thermal": 49.9, "rp1-adc": 52.2}


def test_warmest_of_several_with_one_name_counts(pi: Path) -> None:
    twin = pi / "sys/class/thermal/thermal_zone1"
    shutil.copytree(pi / "sys/class/thermal/thermal_zone0", twin)
    (twin / "temp").write_text("61000\n")
    assert _celsius(pi)["cpu-thermal"] == 61.0


@pytest.mark.parametrize("text", ["", "\n", "n/a", "12.5.1", "-256000", "4294967295", "\xff\xfe"])
def test_nonsense_is_no_temperature(pi: Path, text: str) -> None:
    shutil.rmtree(pi / "sys/class/hwmon")
    (pi / ZONE).write_text(text, encoding="latin-1")
    assert _celsius(pi) == {}


def test_sensor_that_vanishes_is_absent_and_comes_back(pi: Path) -> None:
    shutil.rmtree(pi / "sys/class/hwmon")
    sensors = device_sensors(pi)
    assert sensors.read().metrics()["temperature_celsius"] == {"cpu-thermal": 49.9}
    (pi / ZONE).rename(pi / "aside")
    gone = sensors.read().metrics()
    assert "temperature_celsius" not in gone
    assert "temperature_max_celsius" not in gone
    (pi / "aside").rename(pi / ZONE)
    assert sensors.read().metrics()["temperature_max_celsius"] == 49.9


def test_sensor_that_says_try_again_is_absent(pi: Path) -> None:
    """A pipe that somebody has open and nobody writes to answers EAGAIN, as a gated zone does."""
    shutil.rmtree(pi / "sys/class/hwmon")
    (pi / ZONE).unlink()
    os.mkfifo(pi / ZONE)
    writer = os.open(pi / ZONE, os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(writer, 1)
        assert _celsius(pi) == {}
    finally:
        os.close(writer)


def test_this_machine_can_be_read() -> None:
    sensors = device_sensors()
    sensors.read().metrics()
    metrics = sensors.read().metrics()
    assert metrics["process_rss_bytes"] > 1_000_000
    assert 0 < metrics["memory_used_percent"] < 100


def test_family_that_fails_is_left_out_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        is_broken = True

        def probe(self) -> None:
            pass

        def read(self, now_s: float) -> Reading:
            if self.is_broken:
                raise RuntimeError("the bus is stuck")
            return Reading(power_watts={"bus": 7.5})

    family = Broken()
    tree = Tree(FAKES / "x86-pc")
    sensors = DeviceSensors({"broken": family, "linux": LinuxSensors(tree)})
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert sensors.read().metrics()["uptime_s"] == 98410
    assert len(caplog.records) == 1
    assert "broken" in caplog.text
    family.is_broken = False
    assert sensors.read().power_watts == {"bus": 7.5}

"""What holds devices back, their power and their clocks, on trees written after documentation."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.sensors import (
    Clock,
    DeviceSensors,
    Reading,
    Throttle,
    _files,
    device_sensors,
    raspberry_pi,
)

FAKES = Path(__file__).parent.parent / "fakes"
GOVERNED = ("jetson-orin-nano", "jetson-thor", "raspberry-pi-5", "x86-pc")

THERMAL = "sys/class/thermal"
HWMON = "sys/class/hwmon"
THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
PACKAGE = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms"

Machine = Callable[[str], "Device"]


class Device:
    """A copy of a tree, read once a second."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sensors: DeviceSensors = device_sensors(root)
        self._now_s = 0.0

    def read(self) -> Reading:
        self._now_s += 1.0
        return self.sensors.read(self._now_s)

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        assert file.is_file(), path
        file.write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return lambda name: Device(shutil.copytree(FAKES / name, tmp_path / name))


@pytest.mark.parametrize("name", GOVERNED)
def test_device_at_ease_does_not_throttle(machine: Machine, name: str) -> None:
    device = machine(name)
    for _ in range(3):
        reading = device.read()
        assert reading.throttles == ()
        assert reading.throttle == Throttle("none", "")


def test_orin_nano_draws_what_its_input_says_and_not_the_sum_of_its_rails(machine: Machine) -> None:
    reading = machine("jetson-orin-nano").read()
    assert reading.power_watts == {"VDD_IN": 4.935, "VDD_CPU_GPU_CV": 0.769, "VDD_SOC": 1.456}
    assert reading.total_watts == 4.935
    assert reading.figures["gpu_percent"] == 37.4
    assert reading.clocks["17000000.gpu"] == Clock(306_000_000, 624_750_000, 624_750_000)
    assert reading.clocks["cpu0"] == Clock(729_600_000, 1_510_400_000, 1_510_400_000)
    assert "cpu4" not in reading.clocks  # one for all cores of a kind
    assert reading.passive_celsius == {"cpu-thermal": 99.0}
    assert reading.hottest == ("tj-thermal", 51.1)


def test_agx_orin_draws_the_sum_of_its_rails_and_skips_what_is_not_connected(
    machine: Machine,
) -> None:
    device = machine("jetson-orin-nano")
    for channel, label in (("1", "VDD_GPU_SOC"), ("2", "NC"), ("3", "VIN_SYS_5V0")):
        device.write(f"{HWMON}/hwmon1/in{channel}_label", label)
    reading = device.read()
    assert set(reading.power_watts) == {"VDD_GPU_SOC", "VIN_SYS_5V0"}
    assert reading.total_watts == pytest.approx(4.935 + 1.456)


def test_thor_draws_what_its_input_says(machine: Machine) -> None:
    reading = machine("jetson-thor").read()
    assert reading.total_watts == 33.12
    assert reading.power_watts["VIN"] == 33.12
    assert reading.power_watts["VDD_CPU_SOC_MSS"] == 11.558
    assert len(reading.power_watts) == 4
    assert reading.clocks["bwmgr"] == Clock(2_133_000_000, 4_266_000_000, 4_266_000_000)


@pytest.mark.parametrize(
    ("file", "cause", "why"),
    [
        (f"{THERMAL}/cooling_device1/cur_state", "thermal", "cpu-throttle-alert at 2"),
        (f"{THERMAL}/cooling_device5/cur_state", "thermal", "devfreq-17000000.gpu at 2"),
        (f"{THERMAL}/cooling_device4/cur_state", "none", ""),  # a warm surface slows nothing
        (f"{THERMAL}/cooling_device0/cur_state", "none", ""),  # nor does a fan
        (f"{HWMON}/hwmon0/oc1_event_cnt", "power", "undervoltage, 2 times"),
        (f"{HWMON}/hwmon0/oc2_event_cnt", "over-current", "average over-current, 2 times"),
        (f"{HWMON}/hwmon0/oc3_event_cnt", "none", ""),  # peaks come several times a second
        (f"{HWMON}/hwmon1/curr1_crit_alarm", "over-current", "VDD_IN draws more"),
        (f"{HWMON}/hwmon1/curr1_max_alarm", "power", "VDD_IN draws more"),
    ],
)
def test_jetson_says_why_it_throttles(machine: Machine, file: str, cause: str, why: str) -> None:
    device = machine("jetson-orin-nano")
    assert device.read().throttle.cause == "none"
    device.write(file, 2)
    throttle = device.read().throttle
    assert throttle.cause == cause
    assert why in throttle.why


def test_counter_of_over_current_counts_only_while_it_rises(machine: Machine) -> None:
    device = machine("jetson-orin-nano")
    device.write(f"{HWMON}/hwmon0/oc2_event_cnt", 15)  # since the start, before we looked
    assert device.read().throttle.cause == "none"
    device.write(f"{HWMON}/hwmon0/oc2_event_cnt", 16)
    assert device.read().throttle.cause == "over-current"
    assert device.read().throttle.cause == "none"


@pytest.mark.parametrize(
    ("bits", "cause"),
    [
        ("0", "none"),
        ("50000", "none"),  # it happened, and is over
        ("1", "power"),
        ("50005", "power"),  # a low voltage throttles as well
        ("2", "thermal"),
        ("80008", "thermal"),
        ("e0006", "thermal"),
        ("nonsense", "none"),
    ],
)
def test_raspberry_pi_says_why_it_throttles(machine: Machine, bits: str, cause: str) -> None:
    device = machine("raspberry-pi-5")
    device.write(THROTTLED, bits)
    assert device.read().throttle.cause == cause


def test_raspberry_pi_of_a_plain_kernel_says_that_its_voltage_is_low(machine: Machine) -> None:
    device = machine("raspberry-pi-5")
    (device.root / THROTTLED).unlink()
    device.write(f"{HWMON}/hwmon2/in0_lcrit_alarm", 1)
    assert device.read().throttle.cause == "power"


def test_raspberry_pi_5_tells_power_by_rail(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bytes]] = []

    def answer(path: str, command: bytes) -> str:
        asked.append((path, command))
        return (
            " 3V3_SYS_A current(1)=0.10000000A\n"
            " VDD_CORE_A current(7)=2.50000000A\n"
            " 3V3_SYS_V volt(9)=3.30000000V\n"
            " VDD_CORE_V volt(15)=0.80000000V\n"
            " EXT5V_V volt(24)=5.10000000V\n"  # no current is told of it
        )

    device = machine("raspberry-pi-5")
    vcio = device.root / "dev/vcio"
    vcio.parent.mkdir()
    vcio.symlink_to("/dev/null")  # a character device
    assert stat.S_ISCHR(os.stat(vcio).st_mode)
    monkeypatch.setattr(raspberry_pi, "_ask", answer)
    reading = device.read()
    assert reading.power_watts == {"3V3_SYS": 0.33, "VDD_CORE": 2.0}
    assert reading.total_watts == 2.33
    assert set(asked) == {(str(vcio), b"pmic_read_adc")}


def test_firmware_is_asked_as_its_own_tool_asks_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mailbox's message: its size, a request, the tag GET_GENCMD_RESULT, its size, two words
    for the answer's size and status, the command and then the answer, and the end tag.
    """
    answers = {b"pmic_read_adc": b"A_A current(0)=2.0A\nA_V volt(1)=1.5V", b"get_throttled": b""}

    def ioctl(descriptor: int, request: int, message: bytearray, mutate: bool) -> int:
        assert stat.S_ISCHR(os.fstat(descriptor).st_mode)
        assert request == 0xC0086400  # _IOWR(100, 0, char *) where pointers have 8 bytes
        size, code, tag, most, length, status = struct.unpack_from("=6I", message)
        assert (size, code, tag, length, status) == (len(message), 0, 0x00030080, 0, 0)
        assert message[-4:] == b"\0\0\0\0"
        assert most == len(message) - 7 * 4
        answer = answers[bytes(message[24:-4]).rstrip(b"\0")]
        message[24:-4] = answer.ljust(most, b"\0")
        return 0

    device = machine("raspberry-pi-5")
    (device.root / "dev").mkdir()
    (device.root / "dev/vcio").symlink_to("/dev/null")
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert device.read().power_watts == {"A": 3.0}
    assert device.read().throttle.cause == "none"
    (device.root / THROTTLED).unlink()  # as in a container that has the device alone
    answers[b"get_throttled"] = b"throttled=0x50005"
    device.sensors = device_sensors(device.root)
    assert device.read().throttle.cause == "power"
    answers[b"get_throttled"] = b'error=1 error_msg="Command not registered"'
    assert device.read().throttle.cause == "none"
    answers[b"pmic_read_adc"] = b"A_A current(0)=" + b"9" * 900 + b"A\nA_V volt(1)=1.5V"
    reading = device.read()
    assert (reading.power_watts, reading.total_watts) == ({}, None)
    assert reading.total_rail == "all rails of the PMIC"


def test_device_that_knows_no_firmware_request_has_no_power(machine: Machine) -> None:
    device = machine("raspberry-pi-5")
    (device.root / "dev").mkdir()
    (device.root / "dev/vcio").symlink_to("/dev/null")  # its ioctl fails
    assert device.read().total_watts is None


def test_energy_counters_become_watts_also_where_they_start_again(machine: Machine) -> None:
    device = machine("x86-pc")
    assert device.read().power_watts == {}  # a rate needs a beginning
    rapl = "sys/class/powercap"
    device.write(f"{rapl}/intel-rapl:0/energy_uj", 262143000000 + 12_000_000 - 262143328850 - 1)
    device.write(f"{rapl}/intel-rapl:0:0/energy_uj", 8_001_000)
    device.write(f"{rapl}/intel-rapl:0:2/energy_uj", 2_007_000)
    device.write(f"{rapl}/intel-rapl:1/energy_uj", 30_009_000)
    reading = device.read()
    assert reading.power_watts == {
        "package-0": 12.0,
        "package-0-core": 8.0,
        "package-0-uncore": 0.0,
        "package-0-dram": 2.0,
        "psys": 30.0,
    }
    assert reading.total_watts == 30.0


def test_without_a_counter_of_the_platform_packages_and_memory_are_the_whole(
    machine: Machine,
) -> None:
    device = machine("x86-pc")
    shutil.rmtree(device.root / "sys/class/powercap/intel-rapl:1")
    device.read()
    device.write("sys/class/powercap/intel-rapl:0:0/energy_uj", 8_001_000)  # within the package
    device.write("sys/class/powercap/intel-rapl:0:2/energy_uj", 2_007_000)
    assert device.read().total_watts == 2.0


def test_processor_that_is_hot_for_long_throttles_and_one_that_boosts_does_not(
    machine: Machine,
) -> None:
    device = machine("x86-pc")
    device.read()
    device.write(PACKAGE, 170)
    assert device.read().throttle.cause == "none"  # 5 % of the time
    device.write(PACKAGE, 570)
    throttle = device.read().throttle
    assert (throttle.cause, "40 % of the time" in throttle.why) == ("thermal", True)


def test_gpu_at_its_power_limit_does_not_throttle_and_a_hot_one_does(machine: Machine) -> None:
    device = machine("x86-pc")
    assert device.read().throttle.cause == "none"
    device.write("sys/class/drm/card0/gt/gt0/throttle_reason_thermal", 1)
    assert device.read().throttle == Throttle("thermal", "the GPU is held back: thermal")


def test_clock_that_falls_for_no_known_reason_is_told_and_a_power_mode_is_none(
    machine: Machine,
) -> None:
    device = machine("jetson-orin-nano")
    limit = "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"
    device.write(limit, 1_190_400)  # since before we looked: a mode of less power
    assert device.read().throttle.cause == "none"
    device.write(limit, 729_600)
    assert device.read().throttle == Throttle("unknown", "cpu0 may run 730 of 1190 MHz")


def test_trip_points_that_nobody_set_are_no_limit(machine: Machine) -> None:
    assert machine("x86-pc").read().passive_celsius == {}


def test_warm_disk_is_not_what_inference_heats(machine: Machine) -> None:
    device = machine("x86-pc")
    device.write(f"{HWMON}/hwmon1/temp1_input", 84_000)
    reading = device.read()
    assert reading.hottest == ("x86-pkg-temp", 46.0)
    assert reading.metrics()["temperature_max_celsius"] == 84.0


def test_worst_cause_is_the_one_that_counts(machine: Machine) -> None:
    device = machine("jetson-orin-nano")
    device.read()
    device.write(f"{THERMAL}/cooling_device1/cur_state", 1)
    device.write(f"{HWMON}/hwmon0/oc2_event_cnt", 1)
    reading = device.read()
    assert len(reading.throttles) == 2
    assert reading.metrics()["throttle"] == "over-current"
    assert "cpu-throttle-alert" in reading.metrics()["throttle_why"]


def test_figure_that_fails_is_left_out_and_logged_once(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.sensors")
    device = machine("jetson-orin-nano")
    device.read()
    device.write(f"{HWMON}/hwmon1/curr1_input", "garbage")
    for _ in range(3):
        reading = device.read()
        assert "VDD_IN" not in reading.power_watts
        assert reading.total_watts is None  # nor is it that of the rails within
    assert ["curr1_input" in record.message for record in caplog.records] == [True]
    assert "says 'garbage'" in caplog.text


def test_slow_file_is_asked_seldom(
    machine: Machine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "edge.sensors")
    device = machine("raspberry-pi-5")
    slow = str(device.root / THERMAL / "thermal_zone0/temp")
    clock, real_read, real_open = [0.0], os.read, os.open
    opened: list[str] = []

    def open_file(path: str, flags: int) -> int:
        opened.append(path)
        return real_open(path, flags)

    def read(descriptor: int, size: int) -> bytes:
        if opened[-1] == slow:
            clock[0] += 2.0
        return real_read(descriptor, size)

    monkeypatch.setattr(_files.os, "open", open_file)
    monkeypatch.setattr(_files.os, "read", read)
    monkeypatch.setattr(_files.time, "monotonic", lambda: clock[0])
    for _ in range(20):
        device.read()
    assert opened.count(slow) == 1
    assert sum(slow in record.message for record in caplog.records) == 1
    clock[0] += 300.0
    device.read()
    assert opened.count(slow) == 2


def test_what_appears_later_is_found(machine: Machine) -> None:
    device = machine("jetson-orin-nano")
    chip = device.root / HWMON / "hwmon1"
    aside = device.root / "aside"
    chip.rename(aside)
    assert device.read().total_watts is None
    aside.rename(chip)
    device.sensors.read(time.monotonic() + 1e6)
    assert device.sensors.read(time.monotonic() + 1e6 + 1).total_watts == 4.935


def test_orin_tells_its_power_mode_by_name(machine: Machine) -> None:
    device = machine("jetson-orin-nano")
    assert device.read().metrics()["power_mode"] == "15W"
    device.write("var/lib/nvpmodel/status", "pmode:0001 fmode:quiet")
    assert device.read().figures["power_mode"] == "7W"
    device.write("var/lib/nvpmodel/status", "pmode:0009")  # not in its configuration
    assert device.read().figures["power_mode"] == "9"
    device.write("var/lib/nvpmodel/status", "")
    assert "power_mode" not in device.read().figures


def test_orin_tells_its_memory_clock_and_without_root_what_the_power_mode_allows(
    machine: Machine,
) -> None:
    device = machine("jetson-orin-nano")
    assert device.read().clocks["emc"] == Clock(2_133_000_000, 2_133_000_000, 3_199_000_000)
    shutil.rmtree(device.root / "sys/kernel/debug")
    device.sensors = device_sensors(device.root)
    assert device.read().clocks["emc"] == Clock(None, 2_133_000_000, None)
    device.write("sys/kernel/nvpmodel_clk_cap/emc", 0)  # no limit
    assert "emc" not in device.read().clocks


def test_fans_tell_their_speed_and_what_they_are_driven_with(machine: Machine) -> None:
    orin = machine("jetson-orin-nano").read().figures
    assert (orin["fan_rpm"], orin["fan_percent"]) == ({"pwm-tach": 1636}, {"pwmfan": 30})
    pi = machine("raspberry-pi-5").read().figures
    assert (pi["fan_rpm"], pi["fan_percent"]) == ({"pwmfan": 2710}, {"pwmfan": 29})

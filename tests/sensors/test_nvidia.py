"""GPUs by NVIDIA's library: a real library with real structures, whose answers a test sets."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import LONG_S

from edge.sensors import Clock, DeviceSensors, Reading, device_sensors
from edge.sensors._rounds import Rounds

FAKES = Path(__file__).parent.parent / "fakes"
Compile = Callable[..., Path]

LOST, NO_DRIVER, TIMEOUT = "!15", "!9", "!10"

CARD: dict[str, object] = {
    "uuid": 11,
    "load": 83,
    "total": 16 << 30,
    "used": 5 << 30,
    "celsius": 64,
    "celsius_max": 87,
    "celsius_slowdown": 92,
    "power": 99_000,
    "power_average": 62_125,
    "power_now": 70_500,
    "energy": 1_000_000,
    "graphics.now": 1410,
    "graphics.limit": 1590,
    "graphics.max": 2100,
    "memory.now": 5001,
    "memory.max": 5001,
    "fan": 43,
    "reasons": 4,  # at its limit of power, as it is meant to be
}


class Machine:
    """A machine with a driver, read once a second."""

    def __init__(self, root: Path, library: Path) -> None:
        self.root = root
        (root / "sys/module/nvidia").mkdir(parents=True)
        self._folder = root / "usr/lib/x86_64-linux-gnu"
        self._folder.mkdir(parents=True)
        shutil.copy(library, self._folder)
        self.gpus: list[dict[str, object]] = [dict(CARD)]
        self.top: dict[str, object] = {"init": 0}
        self.sensors: DeviceSensors = device_sensors(root)
        self._now_s = 0.0

    def answer(self) -> None:
        lines = {**self.top, "count": self.top.get("count", len(self.gpus))} | {
            f"{index}.{key}": value
            for index, gpu in enumerate(self.gpus)
            for key, value in gpu.items()
        }
        file = self._folder / "next"
        file.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
        file.rename(self._folder / "answers")

    def read(self, after_s: float = 1.0) -> Reading:
        self.answer()
        self._now_s += after_s
        return self.sensors.read(self._now_s)

    def later(self) -> Reading:
        """After the next look for what there is."""
        return self.read(100.0)


@pytest.fixture
def machine(tmp_path: Path, compiled_nvml: Compile) -> Machine:
    return Machine(tmp_path, compiled_nvml())


@pytest.fixture
def on(tmp_path: Path, compiled_nvml: Compile) -> Callable[[str], Machine]:
    """A machine with the sensors of a tree beside its GPU."""

    def build(tree: str) -> Machine:
        shutil.copytree(FAKES / tree, tmp_path, dirs_exist_ok=True)
        return Machine(tmp_path, compiled_nvml())

    return build


def test_gpu_tells_all_that_the_library_knows(machine: Machine) -> None:
    reading = machine.read()
    assert reading.temperature_celsius == {"gpu-0": 64.0}
    assert reading.passive_celsius == {"gpu-0": 87.0}
    assert (reading.total_watts, reading.total_rail, reading.total_joules) == (62.125, "gpu-0", 0.0)
    assert reading.power_watts == {"gpu-0": 62.125}
    assert reading.clocks == {
        "gpu-0": Clock(1_410_000_000, 1_590_000_000, 2_100_000_000),
        "gpu-0-memory": Clock(5_001_000_000, None, 5_001_000_000),
    }
    assert reading.throttles == ()
    assert {name: value for name, value in reading.figures.items() if "disk" not in name} == {
        "gpu_percent": 83.0,
        "gpu_load_percent": {"gpu-0": 83},
        "gpu_memory_used_bytes": {"gpu-0": 5 << 30},
        "gpu_memory_total_bytes": {"gpu-0": 16 << 30},
        "gpu_power_now_watts": {"gpu-0": 70.5},
        "fan_percent": {"gpu-0": 43},
    }


def test_older_driver_tells_power_and_memory_and_reasons_under_older_names(
    tmp_path: Path, compiled_nvml: Compile
) -> None:
    machine = Machine(tmp_path, compiled_nvml("BEFORE_535"))
    for name in ("power_average", "power_now", "total", "used"):
        del machine.gpus[0][name]
    machine.gpus[0] |= {"old_total": 4 << 30, "old_used": 1 << 30, "reasons": 0x40}
    reading = machine.read()
    assert reading.power_watts == {"gpu-0": 99.0}
    assert "gpu_power_now_watts" not in reading.figures
    assert reading.figures["gpu_memory_used_bytes"] == {"gpu-0": 1 << 30}
    assert reading.throttle.cause == "thermal"


def test_driver_without_the_old_call_tells_its_temperature(
    tmp_path: Path, compiled_nvml: Compile
) -> None:
    machine = Machine(tmp_path, compiled_nvml("AFTER_13"))
    assert machine.read().temperature_celsius == {"gpu-0": 64.0}


def test_gpu_without_a_limit_of_its_own_is_held_back_by_its_hardware(machine: Machine) -> None:
    del machine.gpus[0]["celsius_max"]
    assert machine.read().passive_celsius == {"gpu-0": 92.0}


@pytest.mark.parametrize(
    ("bits", "cause", "why"),
    [
        (0x01, "none", ""),  # nothing to do
        (0x02, "none", ""),  # set clocks
        (0x04, "none", ""),  # at its limit of power
        (0x20, "thermal", "gpu-0: the driver keeps it cool"),
        (0x48, "thermal", "gpu-0: the hardware is too hot"),
        (0x88, "power", "gpu-0: the board's supply asks to brake"),
        (0x0C, "over-current", "gpu-0: the hardware slows down, as it draws too much at once"),
    ],
)
def test_gpu_says_why_it_throttles(machine: Machine, bits: int, cause: str, why: str) -> None:
    machine.gpus[0]["reasons"] = bits
    throttle = machine.read().throttle
    assert (throttle.cause, throttle.why) == (cause, why)


def test_two_gpus_add_up_and_keep_their_names(machine: Machine) -> None:
    machine.gpus.append(dict(CARD, uuid=22, power_average=30_000, load=5))
    reading = machine.read()
    assert reading.power_watts == {"gpu-0": 62.125, "gpu-1": 30.0}
    assert (reading.total_watts, reading.total_rail) == (92.125, "gpu-0+gpu-1")
    assert reading.figures["gpu_percent"] == 83.0
    assert reading.figures["gpu_load_percent"] == {"gpu-0": 83, "gpu-1": 5}


def test_energy_is_that_of_the_counter(machine: Machine) -> None:
    machine.read()
    machine.gpus[0]["energy"] = 1_060_500
    assert machine.read().total_joules == 60.5
    machine.gpus[0]["energy"] = 70  # the driver was loaded anew
    assert machine.read().total_joules is None
    machine.gpus[0]["energy"] = 2_070
    assert machine.read().total_joules == 62.5


def test_gpu_without_a_counter_has_power_and_no_energy(machine: Machine) -> None:
    del machine.gpus[0]["energy"]
    reading = machine.read()
    assert (reading.total_watts, reading.total_joules) == (62.125, None)


def test_orin_whose_library_supports_nothing_has_no_such_gpu(machine: Machine) -> None:
    machine.gpus = [{"uuid": 1}]
    assert machine.read().figures.keys() == {"disk_total_bytes", "disk_free_bytes"}
    machine.gpus = [dict(CARD)]
    assert "gpu_percent" not in machine.later().figures  # it is not asked again


def test_thor_tells_its_load_and_draws_what_its_input_says(on: Callable[[str], Machine]) -> None:
    machine = on("jetson-thor")
    machine.gpus = [{"uuid": 1, "load": 51, "power": 14_000, "energy": 5}]
    reading = machine.read()
    assert reading.figures["gpu_percent"] == 51.0
    assert reading.power_watts["gpu-0"] == 14.0
    assert (reading.total_watts, reading.total_rail) == (33.12, "VIN")
    assert reading.total_joules is None


def test_thor_whose_input_can_not_be_read_does_not_draw_what_its_gpu_says(
    on: Callable[[str], Machine],
) -> None:
    machine = on("jetson-thor")
    machine.gpus = [{"power": 14_000}]
    machine.read()
    (machine.root / "sys/class/hwmon/hwmon1/power1_input").write_text("")
    reading = machine.read()
    assert (reading.total_watts, reading.total_rail) == (None, "VIN")


def test_card_and_processor_are_beside_each_other_and_the_platform_is_all(
    on: Callable[[str], Machine],
) -> None:
    machine = on("x86-pc")
    platform = machine.root / "sys/class/powercap/intel-rapl:1"
    assert machine.read().total_rail == "psys"
    shutil.rmtree(platform)
    machine.sensors = device_sensors(machine.root)
    first = machine.read()
    assert (first.total_watts, first.total_joules) == (None, 0.0)  # a rate needs a beginning
    (machine.root / "sys/class/powercap/intel-rapl:0:2/energy_uj").write_text("2007000\n")
    machine.gpus[0]["energy"] = 1_061_000
    reading = machine.read()
    assert reading.total_rail == "gpu-0+package-0+package-0-dram"
    assert reading.total_watts == 62.125 + 2.0
    assert reading.total_joules == 61.0 + 2.0
    del machine.gpus[0]["energy"]  # watts are still known
    reading = machine.read()
    assert (reading.total_watts, reading.total_joules) == (62.125, None)


def test_gpu_that_falls_off_the_bus_leaves_the_others_and_comes_back_as_itself(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.sensors")
    machine.gpus.append(dict(CARD, uuid=22, power_average=30_000))
    machine.read()
    machine.gpus[0] |= dict.fromkeys(CARD, LOST)
    for _ in range(3):
        reading = machine.read()
        assert reading.power_watts == {"gpu-1": 30.0}
        assert (reading.total_watts, reading.total_rail) == (None, "gpu-0+gpu-1")
        assert reading.figures["disk_total_bytes"] > 0
    reading = machine.later()
    assert (reading.total_watts, reading.total_rail) == (30.0, "gpu-1")
    assert len(caplog.records) == 1
    assert "gpu-0 can't be asked any more" in caplog.text
    machine.gpus[0] = dict(CARD)
    assert machine.later().power_watts == {"gpu-0": 62.125, "gpu-1": 30.0}


def test_gpu_that_is_not_counted_any_more_keeps_the_name_of_the_other(machine: Machine) -> None:
    machine.gpus.append(dict(CARD, uuid=22, power_average=30_000))
    machine.read()
    machine.gpus = [dict(CARD, uuid=11, handle=LOST), *machine.gpus[1:]]
    machine.gpus[1]["load"] = LOST  # what makes it look anew
    machine.read()
    machine.gpus[1]["load"] = 9
    assert machine.later().power_watts == {"gpu-1": 30.0}


def test_driver_that_is_loaded_later_and_anew_is_found(machine: Machine) -> None:
    machine.top["init"] = NO_DRIVER
    assert "gpu_percent" not in machine.read().figures
    machine.top["init"] = 0
    assert machine.later().figures["gpu_percent"] == 83.0
    working, machine.gpus = machine.gpus, [dict.fromkeys(CARD, NO_DRIVER)]
    assert "gpu_percent" not in machine.read().figures
    machine.gpus = working
    assert "gpu_percent" not in machine.read().figures  # at the next look
    assert machine.later().figures["gpu_percent"] == 83.0


def test_gpu_that_answers_nothing_any_more_is_looked_for_anew(machine: Machine) -> None:
    machine.read()
    machine.gpus = [dict.fromkeys(CARD, "!999")]
    assert machine.read().total_watts is None
    machine.gpus = [dict(CARD, uuid=33)]  # exchanged
    assert machine.later().power_watts == {"gpu-1": 62.125}


def test_figure_that_fails_once_is_asked_for_again_and_one_not_supported_is_not(
    machine: Machine,
) -> None:
    machine.gpus[0] |= {"load": TIMEOUT, "fan": "!3"}
    reading = machine.read()
    assert "gpu_percent" not in reading.figures
    assert "fan_percent" not in reading.figures
    assert reading.power_watts == {"gpu-0": 62.125}
    machine.gpus[0] |= {"load": 7, "fan": 50}
    reading = machine.read()
    assert reading.figures["gpu_percent"] == 7.0
    assert "fan_percent" not in reading.figures


def test_library_that_hangs_holds_up_nothing_else(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.sensors")
    machine.sensors._rounds = Rounds(longest_s=1.0)
    machine.read()
    machine.gpus[0]["power_average"] = "hang"
    for _ in range(4):
        reading = machine.read()
        assert reading.figures["disk_total_bytes"] > 0
        assert reading.power_watts == {}
        assert (reading.total_watts, reading.total_rail) == (None, "gpu-0")
    assert [record.message for record in caplog.records] == [
        "the nvidia sensors do not answer, and are left out until they do"
    ]
    machine.gpus[0]["power_average"] = 30_000
    machine.answer()
    for one in machine.sensors._rounds._behind.values():
        one.join(LONG_S)
    assert machine.read().power_watts == {"gpu-0": 30.0}
    assert "answer again" in caplog.text


def test_library_that_is_none_is_as_absent(tmp_path: Path, compiled_nvml: Compile) -> None:
    machine = Machine(tmp_path, compiled_nvml())
    (library,) = tmp_path.glob("usr/lib/*/libnvidia-ml.so.1")
    library.write_bytes(b"no library")
    assert "gpu_percent" not in machine.read().figures


def test_without_the_driver_no_library_is_loaded(machine: Machine) -> None:
    (machine.root / "sys/module/nvidia").rmdir()
    assert "gpu_percent" not in machine.read().figures

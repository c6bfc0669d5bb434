"""Any file of any machine may be gone, stuck or hold nonsense: that costs its own figures only."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S

from edge.sensors import DeviceSensors, Reading, device_sensors
from edge.sensors._files import Tree
from edge.sensors._rounds import Rounds
from edge.sensors.linux import LinuxSensors

FAKES = Path(__file__).parent.parent / "fakes"
DEVICES = sorted(path.name for path in FAKES.iterdir() if (path / "sys").is_dir())

Damage = Callable[[Path], "contextlib.AbstractContextManager[object]"]

MOST_LOST = 4
"""Figures that one file may take along: ``meminfo`` holds four, a chip three rails and a total."""


def holding(text: bytes) -> Damage:
    @contextlib.contextmanager
    def damage(path: Path) -> Iterator[None]:
        path.write_bytes(text)
        yield

    return damage


@contextlib.contextmanager
def gone(path: Path) -> Iterator[None]:
    path.unlink()
    yield


@contextlib.contextmanager
def a_folder(path: Path) -> Iterator[None]:
    path.unlink()
    path.mkdir()
    yield
    path.rmdir()


@contextlib.contextmanager
def a_link_to_itself(path: Path) -> Iterator[None]:
    path.unlink()
    path.symlink_to(path.name)
    yield
    path.unlink()


@contextlib.contextmanager
def a_pipe_without_writer(path: Path) -> Iterator[None]:
    """To open it without O_NONBLOCK would wait for ever."""
    path.unlink()
    os.mkfifo(path)
    yield
    path.unlink()


@contextlib.contextmanager
def a_pipe_that_is_silent(path: Path) -> Iterator[None]:
    """Answers EAGAIN, as a sensor that is switched off does."""
    path.unlink()
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield
    os.close(writer)
    path.unlink()


DAMAGES: dict[str, Damage] = {
    "gone": gone,
    "a folder": a_folder,
    "a link to itself": a_link_to_itself,
    "a pipe without writer": a_pipe_without_writer,
    "a pipe that is silent": a_pipe_that_is_silent,
    "empty": holding(b""),
    "text": holding(b"cpu\n"),
    "no UTF-8": holding(b"\0\xff\xfe:(\n"),
    "a bracket": holding(b") 1\n"),
    "not a number": holding(b"nan inf -inf\n"),
    "negative": holding(b"-7\n"),
    "the largest": holding(b"18446744073709551615\n"),
    "huge": holding(b"9" * 400),
    "endless": holding(b"7" * 300_000),
}
BEFORE = ("gone", "text", "negative", "huge", "a pipe that is silent")
"""With which it is also tried whether what is found at first is found rightly."""


class Machine:
    """A copy of a tree, whose files a test damages and heals."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(path for path in root.rglob("*") if path.is_file())

    @contextlib.contextmanager
    def damaged(self, path: Path, damage: Damage) -> Iterator[None]:
        text = path.read_bytes()
        with damage(path):
            yield
        path.write_bytes(text)


@pytest.fixture(params=DEVICES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(shutil.copytree(FAKES / request.param, tmp_path / "machine"))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {
        name: one
        for key, part in value.items()
        for name, one in _flat(part, f"{path}/{key}").items()
    }


def _figures(reading: Reading) -> dict[str, Any]:
    """All but the free disk, which is that of the machine under test."""
    flat = _flat(reading.metrics())
    del flat["/disk_free_bytes"], flat["/disk_total_bytes"]  # and they are there
    assert all(math.isfinite(one) for one in flat.values() if isinstance(one, float)), flat
    assert all(
        0 <= one <= 100 for key, one in flat.items() if "percent" in key and "process" not in key
    ), flat
    return flat


def _missed(sound: dict[str, Any], damaged: dict[str, Any]) -> list[str]:
    return [key for key, value in sound.items() if damaged.get(key) != value]


def test_file_that_is_damaged_while_it_is_read_costs_its_own_figures_only(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    sensors = device_sensors(machine.root)
    now_s = 0.0
    sound: dict[str, Any] = {}
    for path in machine.files:
        for name, damage in DAMAGES.items():
            for _ in range(2):  # the first heals what rates remember
                now_s += 1e-6  # none is looked for anew
                sound = _figures(sensors.read(now_s))
            with machine.damaged(path, damage):
                now_s += 1e-6
                missed = _missed(sound, _figures(sensors.read(now_s)))
            assert len(missed) <= MOST_LOST, (path, name, missed)
    assert len(sound) > 10
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("name", BEFORE)
def test_file_that_is_damaged_from_the_start_costs_its_own_figures_only(
    machine: Machine, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sound = _figures(device_sensors(machine.root).read(1.0))
    for path in machine.files:
        with machine.damaged(path, DAMAGES[name]):
            missed = _missed(sound, _figures(device_sensors(machine.root).read(1.0)))
        assert len(missed) <= MOST_LOST, (path, missed)
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_file_that_never_answers_costs_its_family_until_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "edge.sensors")
    root = shutil.copytree(FAKES / "jetson-orin-nano", tmp_path / "nano")
    sensors = device_sensors(root)
    sensors._rounds = Rounds(longest_s=1.0)
    sound = sensors.read(1.0)
    begun, healed, real_text = threading.Semaphore(0), threading.Event(), Tree.text

    def text(tree: Tree, path: str, *limit: int) -> str | None:
        if path.endswith("curr2_input") and not healed.is_set():
            begun.release()
            healed.wait(LONG_S)
        return real_text(tree, path, *limit)

    monkeypatch.setattr(Tree, "text", text)
    for now_s in range(2, 100, 10):
        reading = sensors.read(float(now_s))
        assert reading.temperature_celsius == sound.temperature_celsius
        assert reading.figures["memory_total_bytes"] == sound.figures["memory_total_bytes"]
        assert (reading.total_watts, reading.total_rail) == (None, "VDD_IN")
        assert reading.power_watts == {}
    assert begun.acquire(blocking=False)
    assert not begun.acquire(blocking=False)  # nobody asked it a second time
    assert len(caplog.records) == 1
    healed.set()
    for one in sensors._rounds._behind.values():
        one.join(LONG_S)
    assert sensors.read(200.0).total_watts == 4.935
    assert caplog.records[-1].message == "the jetson sensors answer again"


def test_several_that_hang_are_left_behind_in_one_reading() -> None:
    class Stuck:
        def __init__(self) -> None:
            self.release = threading.Event()

        def probe(self) -> None:
            pass

        def read(self, now_s: float) -> Reading:
            self.release.wait(LONG_S)
            return Reading(power_watts={"bus": 1.0})

    stuck = [Stuck(), Stuck()]
    linux = LinuxSensors(Tree(FAKES / "x86-pc"))
    families = {"first": stuck[0], "linux": linux, "second": stuck[1], "third": linux}
    sensors = DeviceSensors(families, Rounds(longest_s=1.0))
    try:
        before = set(threading.enumerate())
        for now_s in (1.0, 2.0):
            assert sensors.read(now_s).figures["uptime_s"] == 98410
        begun = set(threading.enumerate()) - before
        assert sum(one.name == "edge-sensors" for one in begun) == len(stuck)
    finally:
        for one in stuck:
            one.release.set()
    for one in sensors._rounds._behind.values():
        one.join(LONG_S)
    assert sensors.read(3.0).power_watts == {"bus": 1.0}


def test_machine_that_is_out_of_threads_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sensors = device_sensors(FAKES / "raspberry-pi-5")
    monkeypatch.setattr(threading.Thread, "start", start)
    assert sensors.read(1.0).temperature_celsius["cpu-thermal"] == 49.9

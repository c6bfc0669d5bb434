"""The power of a device is cut between any two things that a deployment does to its disk."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ssh_device import Device

from edge.deploy import connection
from edge.deploy.program import program
from edge.deploy.rollout import Outcome

Bring = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
Settings = Callable[..., Path]

# In front of our program there: stops before the nth change, and tells that the power may go.
STOP_AT = """
import os, subprocess, time

count = 0

def stopping(module, name):
    inner = getattr(module, name)

    def act(*arguments, **named):
        global count
        count += 1
        if count == {number}:
            open("/run/cut", "w").close()
            time.sleep(1000)
        return inner(*arguments, **named)

    setattr(module, name, act)

for name in ("replace", "rename", "symlink", "link", "unlink", "fsync", "mkdir", "truncate"):
    stopping(os, name)
stopping(subprocess, "run")
"""


def stopped_at(number: int) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(program())) as ours,
        zipfile.ZipFile(buffer, "w") as changed,
    ):
        for name in ours.namelist():
            text = ours.read(name).decode()
            front = STOP_AT.format(number=number) if name == "ondevice/__init__.py" else ""
            changed.writestr(name, front + text if front else text)
    return buffer.getvalue()


def cut_at(
    number: int, device: Device, act: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Deploy, and cut the power before the nth change; False if there are not so many."""
    monkeypatch.setattr(connection, "program", lambda: stopped_at(number))
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(act()))
    thread.start()
    mark = device.path("/run/cut")
    while thread.is_alive() and not mark.exists():
        time.sleep(0.01)
    was_cut = mark.exists()
    if was_cut:
        device.cut_power()
    thread.join()
    monkeypatch.undo()
    if was_cut:
        assert outcomes[0].state == "unavailable", outcomes[0]
    return was_cut


def survive(
    device: Device, act: Callable[[], Outcome], numbers: range, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Cut the power at each of these changes in turn, on a copy of the device's disk each time."""
    device.cut_power()
    disk = device.folder.with_name(device.folder.name + "-before")
    disk.mkdir()
    device.copy_to(disk)
    seen: dict[str, int] = {}
    for number in numbers:
        device.take_disk(disk)
        device.boot()
        if not cut_at(number, device, act, monkeypatch):
            break
        device.boot()
        versions = device.versions()
        assert versions in ({"m": "1"}, {"m": "2"}), (number, versions, device.log())
        assert not device.path("/opt/edge/pending").exists(), number
        seen[versions["m"]] = seen.get(versions["m"], 0) + 1
        again = act()
        assert again.state in ("done", "unchanged"), (number, again)
        assert device.versions() == {"m": "2"}
        device.cut_power()
    assert seen.keys() == {"1", "2"} or numbers.stop < 100, seen
    return sum(seen.values())


def test_a_few_cuts_leave_a_serving_device(
    served: Device, bring: Bring, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = make_bundle("2")
    assert survive(served, lambda: bring(served, newer), range(30, 32), monkeypatch) == 2


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "drain_s = 5\n"], ids=["live", "restart"])
def test_each_cut_leaves_a_serving_device(
    served: Device,
    bring: Bring,
    make_bundle: MakeBundle,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    more: str,
) -> None:
    newer = make_bundle("2")
    config = settings(served, more) if more else None
    cuts = survive(served, lambda: bring(served, newer, config=config), range(1, 1000), monkeypatch)
    print(f"{cuts} power cuts")
    assert cuts > 30

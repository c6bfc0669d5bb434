"""The power of a device is cut between any two things that a deployment does to its disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from power_cuts import stopped_at
from ssh_device import Device, wait_until

from edge.deploy import connection
from edge.deploy.rollout import Outcome

Bring = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
Settings = Callable[..., Path]


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
        wait_until(lambda: bool(device.versions()), f"nothing serves after cut {number}")
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
    assert cuts > 30

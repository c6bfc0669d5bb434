"""A disk that was prepared elsewhere: its first boot installs what it brought, with no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ssh_device import Device, wait_until

from edge.deploy.overlay import lay, overlay
from edge.deploy.release import make_parcel, read_bundles, read_settings
from edge.deploy.rollout import Outcome
from edge.deploy.wheels import Target, Wheelhouse

MakeBundle = Callable[..., Path]
Settings = Callable[..., Path]
PYTHON = "/usr/bin/python3"


@pytest.fixture
def prepared(
    make_device: Callable[..., Device],
    make_bundle: MakeBundle,
    settings: Settings,
    wheelhouse: Callable[..., Wheelhouse],
) -> Device:
    """A device with the overlay on its disk, and the power off; laid twice, as if interrupted."""
    device = make_device()
    version = device.run(f"{PYTHON} -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'")
    device.cut_power()
    house = wheelhouse((), Target(version.strip(), "x86_64", "2.36"))
    parcel = make_parcel(read_bundles([make_bundle("1")]), read_settings(settings(device)), house)
    files = overlay(parcel)
    lay(files[: len(files) // 2], device.folder)
    lay(files, device.folder)
    return device


def test_the_first_boot_installs_and_serves_and_the_second_only_serves(
    prepared: Device, bring: Callable[..., Outcome], make_bundle: MakeBundle
) -> None:
    prepared.boot()
    wait_until(lambda: prepared.versions() == {"m": "1"}, prepared.log())
    assert not prepared.path("/opt/edge/first-boot.json").exists()
    assert "installing" in prepared.log()
    prepared.cut_power()
    before = len(prepared.log())
    prepared.boot()
    wait_until(lambda: prepared.versions() == {"m": "1"})
    assert "installing" not in prepared.log()[before:]
    assert bring(prepared, make_bundle("2")).takeover == "live"


def test_a_program_of_the_first_boot_that_fails_is_tried_again_at_the_next(
    prepared: Device,
) -> None:
    program = prepared.path("/etc/edge/first-boot.d/10-enrol")
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\ntest -e /var/lib/ready || { touch /var/lib/ready; exit 7; }\n")
    program.chmod(0o755)
    prepared.boot()
    assert "10-enrol ended with 7" in prepared.log()
    assert prepared.versions() == {}
    prepared.cut_power()
    prepared.boot()
    wait_until(lambda: prepared.versions() == {"m": "1"}, prepared.log())

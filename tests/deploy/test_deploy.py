"""Deploying over a real SSH connection to a device of its own."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from patience import LONG_S
from ssh_device import Device

from edge.deploy.rollout import Outcome

Bring = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
Settings = Callable[..., Path]


@contextmanager
def asked_all_the_time(device: Device) -> Iterator[list[str]]:
    """A client that asks without a pause; gives what went wrong, for the others to look at."""
    failures: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                url = f"http://{device.http}/v2/models/m"
                with urllib.request.urlopen(url, timeout=LONG_S) as answer:
                    answer.read()
            except OSError as error:
                failures.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failures
    finally:
        done.set()
        thread.join()


def test_a_fresh_device_serves_and_another_deployment_changes_nothing(
    device: Device, bring: Bring, make_bundle: MakeBundle, settings: Settings
) -> None:
    bundle, config = make_bundle("1"), settings(device)
    outcome = bring(device, bundle, config=config)
    assert (outcome.state, outcome.takeover) == ("done", "first"), outcome
    assert device.versions() == {"m": "1"}
    again = bring(device, bundle, config=config)
    assert (again.state, again.sent_bytes) == ("unchanged", 0), again
    # What may hold a password is read by nobody else.
    (release,) = device.path("/opt/edge/releases").iterdir()
    assert (release / "edge.toml").stat().st_mode & 0o777 == 0o640
    assert device.path("/opt/edge/files").stat().st_mode & 0o777 == 0o700


def test_a_newer_version_takes_over_without_a_pause(
    served: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    before = served.service()["MainPID"]
    with asked_all_the_time(served) as failures:
        outcome = bring(served, make_bundle("2"))
    assert (outcome.state, outcome.takeover) == ("done", "live"), outcome
    assert served.versions() == {"m": "2"}
    assert not failures
    assert served.service()["MainPID"] == before
    assert not served.path("/opt/edge/pending").exists()


def test_a_bad_newer_version_never_serves(
    served: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    with asked_all_the_time(served) as failures:
        outcome = bring(served, make_bundle("2", answer=1.0))
    assert outcome.state == "rolled-back", outcome
    assert "m 2 failed" in outcome.reason
    assert served.versions() == {"m": "1"}
    assert not failures
    assert not served.path("/opt/edge/pending").exists()
    assert len(list(served.path("/opt/edge/releases").iterdir())) == 2


def test_other_settings_restart_the_service_and_who_asks_meanwhile_waits(
    served: Device, bring: Bring, make_bundle: MakeBundle, settings: Settings
) -> None:
    config = settings(served, "drain_s = 5\n")
    with asked_all_the_time(served) as failures:
        outcome = bring(served, make_bundle("1"), config=config)
    assert (outcome.state, outcome.takeover) == ("done", "restart"), outcome
    assert served.versions() == {"m": "1"}
    assert not failures


def test_a_dry_run_prints_the_steps_and_does_none(
    device: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    outcome = bring(device, make_bundle("1"), is_dry=True)
    assert outcome.state == "planned", outcome
    assert outcome.steps[-1].startswith("start the service")
    assert outcome.steps[0].startswith("send ")
    assert outcome.steps[0].endswith(" m 1, edge.toml, 2 wheels")
    assert not device.path("/opt/edge").exists()


def test_what_is_the_devices_own_stays(
    served: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    own = served.path("/etc/edge/environment")
    own.write_text(text := own.read_text() + "EDGE_MQTT_DEVICE=seven\n")
    os.chmod(own, 0o600)
    assert bring(served, make_bundle("2")).state == "done"
    assert own.read_text() == text
    assert own.stat().st_mode & 0o777 == 0o600

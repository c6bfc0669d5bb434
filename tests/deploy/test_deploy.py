"""Deploying over a real SSH connection to a device of its own."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssh_device import Device, wait_until

from edge.deploy import care
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
                with urllib.request.urlopen(url, timeout=30) as answer:
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


def test_a_bad_version_is_found_out_before_a_restart(
    served: Device, bring: Bring, make_bundle: MakeBundle, settings: Settings
) -> None:
    before = served.service()["MainPID"]
    config = settings(served, "drain_s = 5\n")
    outcome = bring(served, make_bundle("2", answer=1.0), config=config)
    assert outcome.state == "rejected", outcome
    assert "does not answer right" in outcome.reason
    assert served.versions() == {"m": "1"}
    assert served.service()["MainPID"] == before


def test_a_service_that_does_not_get_well_is_taken_back(
    served: Device, bring: Bring, make_bundle: MakeBundle, settings: Settings
) -> None:
    other = settings(served, '[mqtt]\nurl = "mqtt://127.0.0.1:1"\n')
    outcome = bring(served, make_bundle("2"), config=other, timeout_s=2.0)
    assert outcome.state == "rolled-back", outcome
    assert "broker" in outcome.reason
    assert served.versions() == {"m": "1"}


def test_an_older_version_needs_force_and_then_serves(
    served: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    bring(served, make_bundle("2"))
    older = make_bundle("1.5")
    refused = bring(served, older)
    assert refused.state == "differs", refused
    assert "m <=1.5, has 2" in refused.reason
    outcome = bring(served, older, is_forced=True)
    assert (outcome.state, outcome.takeover) == ("done", "restart"), outcome
    assert served.versions() == {"m": "1.5"}


def test_status_back_and_off(served: Device, bring: Bring, make_bundle: MakeBundle) -> None:
    bring(served, make_bundle("2"))
    options = ("-F", str(served.config))
    (status,) = care.status([served.name], options, 1)
    assert (status.service, status.is_pending) == ("active", False)
    assert [(model.name, model.version) for model in status.models] == [("m", "2")]
    (back,) = care.roll_back([served.name], options, 1, lambda *_: None, timeout_s=20)
    assert back.state == "done", back
    assert served.versions() == {"m": "1"}
    (off,) = care.remove([served.name], options, 1, lambda *_: None)
    assert off.state == "removed", off
    assert served.versions() == {}
    assert not served.path("/opt/edge").exists()
    assert not list(served.path("/etc/systemd/system").glob("edge*"))
    (status,) = care.status([served.name], options, 1)
    assert (status.service, status.error) == ("not installed", "")


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


def test_what_commands_brought_stays_with_its_release(
    served: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    (release,) = served.path("/opt/edge/releases").iterdir()
    folder = served.path(str(os.readlink(release / "updates")))
    for bundle, place in ((make_bundle("1.5"), "m/1.5"), (make_bundle("1", name="n"), "n/1")):
        (folder / place).parent.mkdir()
        bundle.rename(folder / f"{place}.edge")
    wait_until(lambda: served.versions() == {"m": "1.5", "n": "1"})
    refused = bring(served, make_bundle("1.2"))
    assert "m <=1.2, has 1.5" in refused.reason
    outcome = bring(served, make_bundle("2"))
    assert (outcome.state, outcome.takeover) == ("done", "restart"), outcome
    assert served.versions() == {"m": "2", "n": "1"}
    options = ("-F", str(served.config))
    care.roll_back([served.name], options, 1, lambda *_: None, timeout_s=20)
    assert served.versions() == {"m": "1.5", "n": "1"}

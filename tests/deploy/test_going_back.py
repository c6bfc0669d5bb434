"""Updates that are bad, releases to go back to, and what commands brought beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import LONG_S
from ssh_device import Device, wait_until

from edge.deploy import care
from edge.deploy.rollout import Outcome

Bring = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
Settings = Callable[..., Path]


def test_a_bad_version_is_found_out_before_a_restart(
    served: Device, bring: Bring, make_bundle: MakeBundle, settings: Settings
) -> None:
    before = served.service()["MainPID"]
    config = settings(served, "drain_s = 5\n")
    outcome = bring(served, make_bundle("2", answer=1.0), config=config)
    assert outcome.state == "rejected", outcome
    assert outcome.reason.startswith("m 2 does not answer right there: ")
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
    (back,) = care.roll_back([served.name], options, 1, lambda *_: None, timeout_s=LONG_S)
    assert back.state == "done", back
    assert served.versions() == {"m": "1"}
    (off,) = care.remove([served.name], options, 1, lambda *_: None)
    assert off.state == "removed", off
    assert served.versions() == {}
    assert not served.path("/opt/edge").exists()
    assert not list(served.path("/etc/systemd/system").glob("edge*"))
    (status,) = care.status([served.name], options, 1)
    assert (status.service, status.error) == ("not installed", "")


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
    care.roll_back([served.name], options, 1, lambda *_: None, timeout_s=LONG_S)
    assert served.versions() == {"m": "1.5", "n": "1"}


def test_a_device_that_trusts_others_takes_no_unsigned_bundle(
    served: Device, bring: Bring, make_bundle: MakeBundle, settings: Settings
) -> None:
    pytest.importorskip("cryptography")
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ours"
    served.path("/etc/edge/ours.pub").write_text(key + "\n")
    own = served.path("/etc/edge/environment")
    own.write_text(own.read_text() + "EDGE_TRUST_KEYS=/etc/edge/ours.pub\n")
    own.write_text(own.read_text() + "EDGE_TRUST_REQUIRE=always\n")
    config = settings(served, "drain_s = 5\n")
    outcome = bring(served, make_bundle("2"), config=config)
    assert outcome.state == "rejected", outcome
    assert outcome.reason == "m 2 is refused there: the bundle is not signed"
    assert outcome.hint.startswith("sign it: ")
    assert served.versions() == {"m": "1"}

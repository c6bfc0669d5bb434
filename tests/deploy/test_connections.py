"""Hosts that refuse, connections that break, disks that are full: said, and nothing is lost."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import LONG_S
from ssh_device import Device, wait_until

from edge.core.errors import UnavailableError
from edge.deploy import care, connection, contract, enrolment, rollout
from edge.deploy.connection import connect
from edge.deploy.release import read_bundles
from edge.deploy.rollout import Outcome

Bring = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
Settings = Callable[..., Path]


def test_a_host_that_refuses_and_one_that_changed_its_key(
    device: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle("1")
    hosts = device.folder / "known_hosts"
    right = hosts.read_text()
    hosts.write_text(right[:-30] + "AAAA" + right[-26:])
    other = bring(device, bundle)
    assert other.state == "unavailable"
    assert "host key" in other.reason
    hosts.write_text(right)
    (device.folder / "client_key.pub").write_text("")
    refused = bring(device, bundle)
    assert refused.state == "unavailable"
    assert "ssh-copy-id" in refused.hint
    device.cut_power()
    gone = bring(device, bundle)
    assert "can not be reached" in gone.reason


def test_what_a_login_shell_says_is_told_where_it_lets_nobody_in(
    device: Device, bring: Bring, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = device.path("/opt/shell")
    shell.write_text("#!/bin/sh\necho This account is closed.\n")
    shell.chmod(0o755)
    users = device.path("/etc/passwd")
    users.write_text(re.sub(r"(?m)^(root:.*:).*$", r"\1/opt/shell", users.read_text()))
    closed = bring(device, make_bundle("1"))
    assert closed.state == "unavailable", closed
    assert closed.reason == f"{device.name} starts nothing for us: This account is closed."
    shell.write_text("#!/bin/sh\nsleep 1000\n")
    with monkeypatch.context() as patch:
        patch.setattr(connection, "_GREETED_S", 1.0)
        silent = bring(device, make_bundle("2"))
    assert silent.reason == f"{device.name} starts nothing for us: no answer within 1 s"
    shell.write_text('#!/bin/sh\necho Welcome; exec /bin/sh "$@"\n')
    with connect(device.name, ("-F", str(device.config))) as there:
        assert there.ask("held", files=[]) == {}


def test_two_operators_at_once_and_the_second_learns_who_the_first_is(
    served: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    with connect(served.name, ("-F", str(served.config))) as first:
        first.ask("lock", who="alice@bench")
        second = bring(served, make_bundle("2"))
    assert second.state == "unavailable"
    assert "alice@bench (since " in second.reason
    assert served.versions() == {"m": "1"}
    assert bring(served, make_bundle("3")).state == "done"


def test_an_upload_that_broke_off_goes_on_where_it_was(
    served: Device, bring: Bring, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = make_bundle("2", notes_bytes=3_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(connection, "_chunks", _break_off(connection._chunks, 1_000_000))
        broken = bring(served, large)
    assert broken.state == "unavailable"
    assert served.versions() == {"m": "1"}
    again: list[Outcome] = []

    def is_done() -> bool:
        again.append(bring(served, large))
        return again[-1].state == "done"

    wait_until(is_done, "the device still hears the first one")
    assert 0 < again[-1].sent_bytes < large.stat().st_size
    assert served.versions() == {"m": "2"}


def test_a_file_that_arrived_damaged_is_sent_anew(
    served: Device, bring: Bring, make_bundle: MakeBundle
) -> None:
    newer = make_bundle("2")
    digest = read_bundles([newer])[0].part.sha256
    served.path(f"/opt/edge/files/{digest}.partial").write_bytes(b"not what it should be")
    damaged = bring(served, newer)
    assert (damaged.state, "damaged" in damaged.reason) == ("unavailable", True), damaged
    assert bring(served, newer).state == "done"


def test_a_full_disk_is_said_and_gives_its_room_back(
    served: Device,
    bring: Bring,
    make_bundle: MakeBundle,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = make_bundle("2", notes_bytes=30_000_000)
    assert bring(served, large).state == "done"  # there is room
    served.cut_power()
    served.more_mounts = "mount -t tmpfs -o size=5m none /opt/edge/files"
    served.boot()
    larger = make_bundle("3", notes_bytes=31_000_000)
    monkeypatch.setattr(contract, "SPARE_BYTES", 0)  # as if the disk had become full meanwhile
    full = bring(served, larger, config=settings(served))
    assert full.state == "unavailable", full
    assert "No space left" in full.reason
    assert "make room" in full.hint
    assert served.versions() == {"m": "2"}
    free = served.run("df --output=avail /opt/edge/files | tail -1")
    assert int(free) > 2500  # of 5 MB; the wheels take the rest


def test_a_disk_without_a_free_byte_can_be_cleared(
    served: Device, bring: Bring, make_bundle: MakeBundle, settings: Settings
) -> None:
    served.cut_power()
    size = "$(($(du -sm /opt | cut -f1) + 30))"
    served.more_mounts = (
        f"cp -a /opt /run/copy; mount -t tmpfs -o size={size}m none /opt; cp -a /run/copy/. /opt; "
        "dd if=/dev/zero of=/opt/full bs=64k 2>/dev/null || true"
    )
    served.boot()
    wait_until(lambda: served.versions() == {"m": "1"})
    full = bring(served, make_bundle("2"), config=settings(served, "drain_s = 5\n"))
    assert full.state == "differs", full
    assert full.reason.startswith("disk: needs ")
    assert served.versions() == {"m": "1"}
    (off,) = care.remove([served.name], ("-F", str(served.config)), 1, lambda *_: None)
    assert off.state == "removed", off


def test_settings_that_a_device_lost_are_asked_for(
    served: Device, bring: Bring, make_bundle: MakeBundle, settings: Settings
) -> None:
    for file in served.path("/opt/edge/files").iterdir():
        file.unlink()
    lost = bring(served, make_bundle("2"))
    assert lost.state == "differs", lost
    assert lost.reason == "settings: needs the edge.toml that it serves by, has none"
    assert "--config" in lost.hint
    assert served.versions() == {"m": "1"}
    assert bring(served, make_bundle("3"), config=settings(served)).state == "done"


def test_a_defect_on_the_way_to_one_host_is_no_end_for_the_others() -> None:
    def asked(host: str, _: rollout.Report) -> Outcome:
        if host == "odd":
            raise KeyError("what no answer holds")
        return Outcome(host, "done")

    odd, good = rollout.on_each(["odd", "good"], 2, lambda *_: None, asked)
    assert (odd.state, odd.reason) == ("defect", "KeyError: 'what no answer holds'")
    assert good.state == "done"


def test_a_defect_in_one_enrolment_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(host: str, *_: object) -> enrolment.Enrolment:
        if host == "odd":
            raise KeyError("what no answer holds")
        return enrolment.Enrolment(host, "enrolled")

    monkeypatch.setattr(enrolment, "_enroll", found)
    order: Any = SimpleNamespace(parallel=2)
    odd, good = enrolment.enroll(order, ["odd", "good"], lambda *_: None)
    assert (odd.state, odd.reason) == ("defect", "KeyError: 'what no answer holds'")
    assert good.state == "enrolled"


def test_what_is_interrupted_ends_at_the_next_step_of_each_host() -> None:
    begun, goes_on, ended = (threading.Event() for _ in range(3))

    def act(host: str, told: rollout.Report) -> Outcome:
        if host == "first":
            begun.wait(LONG_S)
            raise KeyboardInterrupt
        begun.set()
        goes_on.wait(LONG_S)
        try:
            told(host, "the next step", 0.5)
        finally:
            ended.set()
        raise AssertionError("it went on")

    reports: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        rollout.on_each(["first", "second"], 2, lambda *told: reports.append(told[1]), act)
    goes_on.set()
    assert ended.wait(LONG_S)
    assert reports == []


def test_a_device_is_told_now_and_then_that_somebody_is_there(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_BEAT_S", 0.01)
    with connect(device.name, ("-F", str(device.config))) as there:
        written: list[bytes] = []
        write = there._write
        monkeypatch.setattr(there, "_write", lambda data: (written.append(data), write(data)))
        with there.kept():
            wait_until(lambda: written.count(b"\n") > 2)
        assert there.ask("held", files=[]) == {}


def test_a_device_ends_by_itself_what_an_operator_left_in_the_middle(
    served: Device,
    bring: Bring,
    make_bundle: MakeBundle,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections: list[Any] = []

    def remembered(*arguments: Any) -> Any:
        connections.append(connect(*arguments))
        return connections[-1]

    def hang_up(_: str, at: str, __: float) -> None:
        if at == "restarting":
            connections[-1]._process.kill()

    monkeypatch.setattr(rollout, "connect", remembered)
    config = settings(served, "drain_s = 5\n")
    outcome = bring(served, make_bundle("2"), config=config, report=hang_up)
    assert outcome.state == "unavailable"
    wait_until(lambda: served.versions() == {"m": "2"})
    wait_until(lambda: not served.path("/opt/edge/pending").exists())


def _break_off(chunks: Callable[..., Any], after_bytes: int) -> Callable[..., Any]:
    def act(contents: Any, offset: int) -> Any:
        sent = 0
        for chunk in chunks(contents, offset):
            if sent >= after_bytes:
                raise UnavailableError("the network was cut")
            yield chunk
            sent += len(chunk)

    return act

"""Devices that can not take what is brought, and connections that break: said, and nothing lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ssh_device import Device

from edge.core.errors import UnavailableError
from edge.deploy import connection, contract, rollout
from edge.deploy.connection import connect, explain
from edge.deploy.contract import Difference, device_differences, release_differences
from edge.deploy.facts import Facts, Python
from edge.deploy.release import Parcel, make_parcel, read_bundles, read_settings
from edge.deploy.rollout import Outcome
from edge.deploy.wheels import Target, Wheelhouse

Bring = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
Settings = Callable[..., Path]
NANO = {
    "hostname": "nano",
    "arch": "aarch64",
    "system": "Ubuntu 22.04.5 LTS",
    "board": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    "glibc": "2.35",
    "pythons": (Python("3.10", "/usr/bin/python3"),),
    "l4t": "36.4.3",
    "cuda": "12.6",
    "tensorrt": "10.3.0.30",
    "sm": "87",
    "npu_driver": "",
    "has_pycuda": True,
    "memory_bytes": 8 << 30,
    "free_memory_bytes": 6 << 30,
    "free_disk_bytes": 50 << 30,
    "can_write": True,
    "has_systemd": True,
    "init": "systemd",
}


def facts(**changes: Any) -> Facts:
    return Facts(**{**NANO, **changes})


def parcel_of(wheelhouse: Callable[..., Wheelhouse], *bundles: Path) -> Parcel:
    house = wheelhouse((), Target("3.10", "aarch64", "2.35"))
    return make_parcel(read_bundles(bundles), read_settings(None), house)


@pytest.fixture
def for_nano(make_bundle: MakeBundle) -> Path:
    """As edge convert makes them for a Jetson: TensorRT, in a range of versions."""
    variant = {
        "id": "tensorrt-fp16",
        "engine": "tensorrt",
        "requires": {"tensorrt": ">=10.3,<10.4"},
    }
    return make_bundle("1", profile="jetson-orin-nano-8gb", variant=variant)


def found(parcel: Parcel, device: Facts, **how: Any) -> list[Difference]:
    return release_differences(
        parcel, device, **{"missing_bytes": 1_000_000, "is_forced": False, **how}
    )


def test_a_device_as_the_profile_says_has_no_differences(
    for_nano: Path, wheelhouse: Callable[..., Wheelhouse]
) -> None:
    assert device_differences(facts()) == []
    assert found(parcel_of(wheelhouse, for_nano), facts()) == []


@pytest.mark.parametrize(
    ("changes", "what", "do"),
    [
        ({"has_systemd": False, "init": "busybox"}, "init", "container"),
        ({"pythons": (Python("3.8", "/usr/bin/python3"),)}, "python", "apt-get install"),
        ({"glibc": ""}, "libc", "container"),
        ({"can_write": False}, "/opt/edge", "writable"),
    ],
)
def test_what_no_release_can_do_without_is_said_first(
    changes: dict[str, Any], what: str, do: str
) -> None:
    (difference,) = device_differences(facts(**changes))
    assert (difference.what, difference.kind) == (what, "stops")
    assert do in difference.do


@pytest.mark.parametrize(
    ("changes", "what", "kind"),
    [
        ({"arch": "x86_64"}, "arch", "stops"),
        ({"free_disk_bytes": 100_000_000}, "disk", "stops"),
        ({"tensorrt": "8.5.2"}, "m tensorrt-fp16", "warns"),
        ({"tensorrt": ""}, "m tensorrt-fp16", "warns"),
        ({"has_pycuda": False}, "m tensorrt-fp16", "warns"),
        ({"sm": "72"}, "sm", "warns"),
        ({"l4t": "35.6.1"}, "l4t", "warns"),
        ({"cuda": "11.4"}, "cuda", "warns"),
    ],
)
def test_each_difference_is_named_with_what_to_do(
    for_nano: Path,
    wheelhouse: Callable[..., Wheelhouse],
    changes: dict[str, Any],
    what: str,
    kind: str,
) -> None:
    differences = found(parcel_of(wheelhouse, for_nano), facts(**changes))
    assert [(one.what, one.kind) for one in differences] == [(what, kind)]
    assert differences[0].do


def test_where_no_other_variant_may_serve_it_stops(
    for_nano: Path, wheelhouse: Callable[..., Wheelhouse]
) -> None:
    parcel = parcel_of(wheelhouse, for_nano)
    serve = msgspec.structs.replace(parcel.settings.serve, fallback="deny")
    settings = msgspec.structs.replace(parcel.settings, serve=serve)
    strict = msgspec.structs.replace(parcel, settings=settings)
    (difference,) = found(strict, facts(tensorrt="8.5.2"))
    assert difference.kind == "stops"
    assert "tensorrt >=10.3,<10.4" in str(difference)


def test_force_lets_another_architecture_pass_but_not_a_full_disk(
    for_nano: Path, wheelhouse: Callable[..., Wheelhouse]
) -> None:
    parcel = parcel_of(wheelhouse, for_nano)
    (difference,) = found(parcel, facts(arch="x86_64"), is_forced=True)
    assert difference.kind == "warns"
    (difference,) = found(parcel, facts(free_disk_bytes=1), is_forced=True)
    assert (difference.what, difference.kind) == ("disk", "stops")


@pytest.mark.parametrize(
    ("stderr", "message", "hint"),
    [
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "another host key", "-R nano"),
        ("Host key verification failed.", "not known here", "ssh root@nano"),
        ("root@nano: Permission denied (publickey).", "let this user in", "ssh-copy-id root@nano"),
        ("sudo: a password is required", "asks for a password", "visudo|sudoers"),
        ("sh: 1: exec: sudo: not found", "no right to become root", "root@nano"),
        ("edge-needs-python", "no Python 3.8", "apt-get install python3"),
        ("ssh: Could not resolve hostname nano: Name or service not known", "named nano", "name"),
        (
            "ssh: connect to host nano port 22: Connection refused",
            "not be reached",
            "ssh root@nano",
        ),
        ("ssh: connect to host nano port 22: Connection timed out", "not be reached", "is it on"),
        ("client_loop: send disconnect: Broken pipe", "Broken pipe", "run it again"),
        ("", "without a word", "run it again"),
    ],
)
def test_what_ssh_says_is_explained(stderr: str, message: str, hint: str) -> None:
    error = explain("root@nano", stderr)
    assert isinstance(error, UnavailableError)
    assert message in str(error)
    assert any(word in error.hint for word in hint.split("|"))


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
    partial = next(served.path("/opt/edge/files").glob("*.partial"))
    _wait_until(lambda: partial.stat().st_size > 0)
    already = partial.stat().st_size
    outcome = bring(served, large)
    assert outcome.state == "done", outcome
    assert outcome.sent_bytes == large.stat().st_size - already
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
    served: Device, bring: Bring, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = make_bundle("2", notes_bytes=30_000_000)
    assert bring(served, large).state == "done"  # there is room
    served.cut_power()
    served.more_mounts = "mount -t tmpfs -o size=5m none /opt/edge/files"
    served.boot()
    larger = make_bundle("3", notes_bytes=31_000_000)
    monkeypatch.setattr(contract, "SPARE_BYTES", 0)  # as if the disk had become full meanwhile
    full = bring(served, larger)
    assert full.state == "unavailable", full
    assert "No space left" in full.reason
    assert "make room" in full.hint
    assert served.versions() == {"m": "2"}
    free = served.run("df --output=avail /opt/edge/files | tail -1")
    assert int(free) > 2500  # of 5 MB; the wheels take the rest


def _break_off(chunks: Callable[..., Any], after_bytes: int) -> Callable[..., Any]:
    def act(contents: Any, offset: int) -> Any:
        sent = 0
        for chunk in chunks(contents, offset):
            if sent >= after_bytes:
                raise UnavailableError("the network was cut")
            yield chunk
            sent += len(chunk)

    return act


def _wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so() and time.monotonic() < end:
        threading.Event().wait(0.01)
    assert is_so()


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
    _wait_until(lambda: served.versions() == {"m": "2"})
    _wait_until(lambda: not served.path("/opt/edge/pending").exists())

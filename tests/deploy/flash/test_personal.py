"""What makes an image one's own, and what its programs do at the first boot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

import pytest

from edge.cli import _main
from edge.core.errors import InputError
from edge.deploy.flash.boards import ANY, Board, Wired
from edge.deploy.flash.personal import Personal, personal_files
from edge.deploy.overlay import Placed, lay

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6 someone@somewhere"


def _files(personal: Personal) -> dict[str, Placed]:
    return {placed.path: placed for placed in personal_files(personal)}


def test_user_may_log_in_by_key_and_become_root() -> None:
    files = _files(Personal(user="admin", ssh_keys=(f"{KEY}\n",)))
    assert files["/etc/edge/first-boot/authorized_keys"].contents == f"{KEY}\n".encode()
    assert files["/etc/sudoers.d/edge"].contents == b"admin ALL=(ALL) NOPASSWD: ALL\n"
    assert files["/etc/sudoers.d/edge"].mode == 0o440


def test_without_a_user_nobody_may_become_root() -> None:
    assert not [path for path in _files(Personal()) if "sudoers" in path or "authorized" in path]


def test_environment_is_for_the_service_alone() -> None:
    placed = _files(Personal(environment={"EDGE_MQTT_URL": "mqtts://b"}))["/etc/edge/environment"]
    assert (placed.contents, placed.mode) == (b"EDGE_MQTT_URL=mqtts://b\n", 0o600)


def test_networks_go_to_the_program_that_reads_them() -> None:
    files = _files(Personal(network={"lan.network": "[Match]\n", "lan.nmconnection": "[ipv4]\n"}))
    assert files["/etc/systemd/network/lan.network"].mode == 0o644
    connection = "/etc/NetworkManager/system-connections/lan.nmconnection"
    assert files[connection].mode == 0o600


def test_trusted_keys_are_named_to_the_service() -> None:
    files = _files(Personal(trusted={"fleet.pub": KEY}, environment={"EDGE_MQTT_FLEET": "a"}))
    assert files["/etc/edge/keys/fleet.pub"].contents == KEY.encode()
    lines = b"EDGE_MQTT_FLEET=a\nEDGE_TRUST_KEYS=/etc/edge/keys\n"
    assert files["/etc/edge/environment"].contents == lines


def test_no_private_key_is_among_the_files() -> None:
    files = personal_files(Personal(user="admin", ssh_keys=(KEY,)))
    assert not [one.path for one in files if b"PRIVATE" in one.contents]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hostname": "a b"}, "no host name"),
        ({"hostname": "-a"}, "no host name"),
        ({"hostname": "x" * 64}, "no host name"),
        ({"user": "root;rm", "ssh_keys": (KEY,)}, "no name of a user"),
        ({"user": "admin"}, "needs a key"),
        ({"ssh_keys": (KEY,)}, "needs a key"),
        ({"user": "a", "ssh_keys": ("-----BEGIN OPENSSH PRIVATE KEY-----",)}, "no public SSH key"),
        ({"user": "a", "ssh_keys": (f"{KEY}\ncommand=evil",)}, "no public SSH key"),
        ({"network": {"a.conf": ""}}, "no description of a network"),
        ({"network": {"a.nmconnection": "[wifi-security]\npsk=hush\n"}}, "holds a password"),
        ({"trusted": {"a.pem": "-----BEGIN PRIVATE KEY-----"}}, "no public key"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Personal(**arguments)  # type: ignore[arg-type]


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A folder that the programs take for the device's root: their paths are rewritten."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "sys/class/net/eth0").mkdir(parents=True)
    (tmp_path / "sys/class/net/eth0/address").write_text("48:b0:2d:00:00:01\n")
    lay(personal_files(Personal(hostname="Cam-{serial}".lower())), tmp_path)
    return tmp_path


def _run(device: Path, program: str) -> None:
    """Run a program with a ``hostname`` that only tells what it was given."""
    tools = device / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "hostname").write_text(
        f'#!/bin/sh\n[ $# = 0 ] && cat {device}/name || echo "$1" > {device}/name\n'
    )
    for name in ("systemctl", "chown", "ssh-keygen", "nmcli", "networkctl"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {device}/calls\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    text = (device / f"etc/edge/first-boot.d/{program}").read_text()
    for folder in ("/etc/", "/proc/", "/sys/"):
        text = text.replace(folder, f"{device}{folder}")
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_name_takes_the_serial_number_of_the_board(device: Path) -> None:
    (device / "proc/device-tree").mkdir(parents=True)
    (device / "proc/device-tree/serial-number").write_bytes(b"1421322000042\0")
    _run(device, "10-name")
    assert (device / "etc/hostname").read_text() == "cam-1421322000042\n"
    assert (device / "name").read_text() == "cam-1421322000042\n"


def test_board_without_a_serial_number_takes_its_machine_id(device: Path) -> None:
    _run(device, "10-name")
    assert (device / "etc/hostname").read_text() == "cam-0123456789ab\n"
    hosts = (device / "etc/hosts").read_text()
    _run(device, "10-name")
    assert (device / "etc/hosts").read_text() == hosts, "the second time changes nothing"


def test_name_that_the_image_was_made_with_is_replaced(device: Path) -> None:
    (device / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 cam-jetson\n")
    _run(device, "10-name")
    assert (device / "etc/hosts").read_text() == "127.0.0.1 localhost\n127.0.1.1 cam-0123456789ab\n"


TABLE = (Board("1421322000042", "door", "10.0.0.7/24"), Board("48:b0:2d:00:00:01", "gate"))
WIRED = Wired("10.0.0.1", ("10.0.0.2", "10.0.0.3"))


def _serial(device: Path, number: str) -> None:
    (device / "proc/device-tree").mkdir(parents=True)
    (device / "proc/device-tree/serial-number").write_bytes(f"{number}\0".encode())


def test_board_in_the_table_has_the_name_and_address_of_its_serial_number(device: Path) -> None:
    lay(personal_files(Personal(boards=TABLE, wired=WIRED)), device)
    _serial(device, "1421322000042")
    (device / "etc/NetworkManager").mkdir()
    _run(device, "10-name")
    assert (device / "etc/hostname").read_text() == "door\n"
    connection = device / "etc/NetworkManager/system-connections/edge.nmconnection"
    assert connection.stat().st_mode & 0o777 == 0o600
    found = ConfigParser()
    found.read_string(connection.read_text())
    assert dict(found["ipv4"]) == {
        "method": "manual",
        "address1": "10.0.0.7/24,10.0.0.1",
        "dns": "10.0.0.2;10.0.0.3;",
    }
    assert "nmcli --wait 20 connection up edge" in (device / "calls").read_text()


def test_board_in_the_table_is_known_by_its_mac_address(device: Path) -> None:
    lay(personal_files(Personal(boards=TABLE)), device)
    _serial(device, "1421322000099")
    _run(device, "10-name")
    assert (device / "etc/hostname").read_text() == "gate\n"
    assert not list((device / "etc").rglob("*edge.n*")), "it has no address of its own"


def test_board_that_is_not_in_the_table_takes_its_serial_number(device: Path) -> None:
    lay(personal_files(Personal(hostname="cam-{serial}", boards=TABLE[:1])), device)
    _run(device, "10-name")
    assert (device / "etc/hostname").read_text() == "cam-0123456789ab\n"


def test_address_of_a_single_device_goes_to_whoever_sets_it(device: Path) -> None:
    boards = (Board(ANY, address="10.0.0.7/24"),)
    lay(personal_files(Personal(hostname="cam", boards=boards, wired=WIRED)), device)
    _run(device, "10-name")
    assert (device / "etc/hostname").read_text() == "cam\n"
    lines = (device / "etc/systemd/network/10-edge.network").read_text().splitlines()
    assert lines[4:] == ["Address=10.0.0.7/24", "Gateway=10.0.0.1", "DNS=10.0.0.2", "DNS=10.0.0.3"]
    assert "networkctl reload" in (device / "calls").read_text()


def test_keys_are_made_once_and_the_request_names_the_device(device: Path) -> None:
    _run(device, "10-name")
    _run(device, "20-keys")
    key = device / "etc/edge/device.key"
    first = key.read_bytes()
    assert b"PRIVATE KEY" in first
    assert key.stat().st_mode & 0o777 == 0o640
    _run(device, "20-keys")
    assert key.read_bytes() == first
    told = subprocess.run(
        ["openssl", "req", "-in", device / "etc/edge/device.csr", "-noout", "-subject", "-verify"],
        capture_output=True,
        text=True,
    )
    assert "cam-0123456789ab" in told.stdout
    calls = (device / "calls").read_text()
    assert "ssh-keygen -A" in calls
    assert calls.index("reset-failed ssh") < calls.index("restart ssh")


@pytest.mark.parametrize(
    ("words", "url"),
    [
        (["--mqtt", "mqtt://u:hush@b.lan"], '"mqtt://b.lan"'),
        (["--config", "edge.toml"], '"mqtt://u:hush@b.lan"'),
        (["--config", "edge.toml"], '["mqtt://a.lan", "mqtt://u:hush@b.lan"]'),
    ],
)
def test_password_of_the_broker_comes_into_no_image(
    words: list[str],
    url: str,
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edge.toml").write_text(f"[mqtt]\nurl = {url}\n")
    bundle = make_bundle(variant={"engine": "onnxruntime"})
    image = [str(bundle), "--profile", "virtual-arm64", "-o", "x.img", "--dry-run"]
    assert _main.main(["flash", *image, *words]) == _main.EXIT_USAGE
    told = capsys.readouterr().err
    assert "an image holds no password" in told
    assert "hush" not in told

"""Devices get certificates over SSH, and a broker that demands one knows them by name."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from free_ports import free_port, listens
from patience import LONG_S, wait_until
from power_cuts import program_after, stopped_at
from ssh_device import Device

from edge.cli._main import main
from edge.deploy import connection
from edge.deploy.authority import make_authority, read_authority
from edge.deploy.certificates import Request, fingerprint
from edge.telemetry.address import BrokerAddress, TlsFiles
from edge.telemetry.link import Link

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
NAME = socket.gethostname()
ROOT = Path(__file__).parents[2]
OWN = ("device.crt", "broker-ca.pem", "environment")


class Broker:
    """A mosquitto that lets in whom its authority vouches for, by that name."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "mosquitto.log"
        self.ca, self.ca_key = make_authority(folder / "ca", 30)
        self.port = free_port()
        key, request, extension = (folder / f"broker.{end}" for end in ("key", "csr", "ext"))
        extension.write_text("subjectAltName=IP:127.0.0.1")
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl("req", "-new", *kind, "-keyout", key, "-out", request, "-subj", "/CN=broker")
        certificate = folder / "broker.crt"
        authority = ["-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial", "-days", "2"]
        _openssl("x509", "-req", "-in", request, *authority, "-extfile", extension, "-out",
                 certificate)  # fmt: skip
        pattern, documented = _documented()
        (folder / "acl").write_text(f"{pattern}\n")
        configuration = folder / "mosquitto.conf"
        configuration.write_text(
            documented.replace("listener 8883", f"listener {self.port} 127.0.0.1")
            + f"user root\npersistence false\nlog_dest file {self.log}\nlog_type all\n"
        )
        self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(configuration)], cwd=folder)
        wait_until(self._listens, "mosquitto does not listen")

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def reload(self) -> None:
        """Read the list of who is revoked again."""
        said = self.log.read_text().count("Reloading config")
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log.read_text().count("Reloading config") > said, "no reload")

    def lets_in(self, certificate: Path, key: Path) -> bool:
        files = TlsFiles(str(self.ca), str(certificate), str(key))
        link = Link(BrokerAddress("127.0.0.1", self.port, tls=files), timeout_s=LONG_S)
        link.open()
        while link.state == "connecting":
            link.step(LONG_S)
        is_in = link.state == "connected"
        link.disconnect()
        return is_in

    def _listens(self) -> bool:
        assert self._process.poll() is None, "mosquitto has ended"
        return listens(self.port)


def _documented() -> tuple[str, str]:
    """What the documents put into the list of access, and the settings that they give mosquitto."""
    text = (ROOT / "docs" / "deployment.md").read_text()
    pattern = re.search(r"^# Has the line: (pattern .+)$", text, re.MULTILINE)
    settings = re.search(r"^(listener 8883\n[^`]+)```", text, re.MULTILINE)
    assert pattern is not None
    assert settings is not None
    return pattern[1], settings[1]


def _openssl(*arguments: Any) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    started = Broker(tmp_path)
    yield started
    started.stop()


Enroll = Callable[..., Any]


@pytest.fixture
def enroll(broker: Broker) -> Enroll:
    """As users do; gives the exit code, and what the JSON says of the one device."""

    def act(device: Device, *arguments: str, mqtt: str = broker.url, approve: str = NAME) -> Any:
        words = ["enroll", device.name, "--ssh-config", str(device.config), "--json"]
        words += ["--ca", str(broker.ca), "--ca-key", str(broker.ca_key), "--timeout", "600"]
        words += ["--mqtt", mqtt] if mqtt else []
        words += ["--approve", approve] if approve else []
        with redirect_stdout(io.StringIO()) as printed:
            code = main([*words, *arguments])
        key = device.path("/etc/edge/device.key")
        if key.exists():
            secret = key.read_text().splitlines()[1:-1]
            assert not any(line in printed.getvalue() for line in secret)
        (outcome,) = json.loads(printed.getvalue())
        return code, outcome

    return act


def own_files(device: Device) -> dict[str, tuple[bytes, int, int, int]]:
    """What an enrolment writes to, with modes and owners."""
    found = {}
    for name in OWN:
        path = device.path(f"/etc/edge/{name}")
        if path.exists():
            known = path.stat()
            found[name] = path.read_bytes(), known.st_mode & 0o777, known.st_uid, known.st_gid
    return found


def is_connected(device: Device) -> bool:
    return (device.ready().get("mqtt") or {}).get("state") == "connected"


def test_enrolled_device_is_known_to_its_broker_and_renewed(
    served: Device, broker: Broker, enroll: Enroll
) -> None:
    environment = served.path("/etc/edge/environment")
    text = f"# mine\nEDGE_SERVE_HTTP={served.http}\nEDGE_MQTT_KEY=/old\nEDGE_MQTT_KEY=/older"
    environment.write_text(text)
    os.chmod(environment, 0o604)
    code, outcome = enroll(served, "--days", "9")
    assert (code, outcome["state"], outcome["name"]) == (0, "enrolled", NAME), outcome
    wait_until(lambda: is_connected(served), "the broker is connected")
    assert f"u'{NAME}'" in broker.log.read_text()
    known = subprocess.run(
        ["ssh-keygen", "-lf", served.folder / "host_key.pub"], capture_output=True, text=True
    )
    assert outcome["host_key"].split()[1] == known.stdout.split()[1]
    assert environment.read_text() == (
        f"# mine\nEDGE_SERVE_HTTP={served.http}\nEDGE_MQTT_KEY=/etc/edge/device.key\n"
        "EDGE_MQTT_CERTIFICATE=/etc/edge/device.crt\nEDGE_MQTT_CA=/etc/edge/broker-ca.pem\n"
        f"EDGE_MQTT_URL={broker.url}\n"
    )
    assert environment.stat().st_mode & 0o777 == 0o604
    names = " ".join(f"/etc/edge/{name}" for name in ("device.key", "device.crt", "broker-ca.pem"))
    assert served.run(f"stat -c '%a %U %G' {names}") == "640 root edge\n" * 3
    assert not served.path("/opt/edge/enrolling").exists()
    assert "edge.telemetry.tls" not in served.log()  # nothing to warn of

    key = served.path("/etc/edge/device.key").read_bytes()
    code, renewed = enroll(served, mqtt="", approve="")
    assert (code, renewed["state"]) == (0, "enrolled"), renewed
    assert renewed["ended"] == outcome["ends"] < renewed["ends"]
    assert (renewed["key"], renewed["serial"] == outcome["serial"]) == (outcome["key"], False)
    assert served.path("/etc/edge/device.key").read_bytes() == key
    wait_until(lambda: is_connected(served), "the broker is connected")
    lines = broker.ca.with_suffix(".issued").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["serial"] for entry in entries] == [outcome["serial"], renewed["serial"]]


def test_what_the_broker_does_not_take_is_put_back(
    served: Device, broker: Broker, enroll: Enroll, tmp_path: Path
) -> None:
    code, first = enroll(served)
    assert code == 0, first
    before = own_files(served)
    other, other_key = make_authority(tmp_path / "other", 30)
    words = ("--ca", str(other), "--ca-key", str(other_key))
    for timeout_s in ("1", "60"):  # the longer one for a slow machine
        code, outcome = enroll(served, *words, "--timeout", timeout_s)
        assert (code, outcome["state"]) == (1, "put-back"), outcome
        if "it does not know its CA" in outcome["reason"]:
            break
    assert "it does not know its CA" in outcome["reason"]
    assert own_files(served) == before
    assert not served.path("/opt/edge/enrolling").exists()
    wait_until(lambda: is_connected(served), "the certificate before is used again")


def revoke(broker: Broker, name: str = NAME) -> dict[str, Any]:
    words = ["enroll", "--revoke", name, "--ca", str(broker.ca), "--ca-key", str(broker.ca_key)]
    with redirect_stdout(io.StringIO()) as printed:
        assert main([*words, "--json"]) == 0
    said: dict[str, Any] = json.loads(printed.getvalue())
    return said


def test_revoked_device_is_shut_out_until_it_is_approved_again_and_others_go_on(
    served: Device, broker: Broker, enroll: Enroll, tmp_path: Path
) -> None:
    code, first = enroll(served)
    assert code == 0, first
    own, key = (served.path(f"/etc/edge/device.{end}") for end in ("crt", "key"))
    other = issue(broker, tmp_path / "other")
    assert broker.lets_in(own, key)
    said = revoke(broker)
    assert said["list"] == str(broker.ca.with_suffix(".crl"))
    assert [one["serial"] for one in said["revoked"]] == [first["serial"]]
    broker.reload()
    assert not broker.lets_in(own, key)
    assert broker.lets_in(*other)
    served.run("systemctl restart edge.service")
    wait_until(lambda: is_refused(served), "the device is told that it is refused")
    wait_until(lambda: served.versions() == {"m": "1"}, "it serves")

    code, outcome = enroll(served, approve="")
    assert (code, outcome["state"]) == (1, "pending"), outcome
    approved = outcome["hint"].split()[-1]
    assert approved == f"{NAME}={first['key']}"
    code, again = enroll(served, approve=approved)
    assert (code, again["state"], again["key"]) == (0, "enrolled", first["key"]), again
    wait_until(lambda: is_connected(served), "the broker is connected")
    assert broker.lets_in(*other)
    assert revoke(broker)["revoked"] != []


def issue(broker: Broker, stem: Path) -> tuple[Path, Path]:
    """Another client of the broker's, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret, certificate = stem.with_suffix(".key"), stem.with_suffix(".crt")
    secret.touch(0o600)
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    public = key.public_key()
    request = Request(stem.name, fingerprint(public), public)
    certificate.write_text(read_authority(broker.ca, broker.ca_key).sign(request, 1).pem)
    return certificate, secret


def is_refused(device: Device) -> bool:
    broker = device.ready().get("mqtt") or {}
    return "refuses our client certificate" in str(broker) or "hung up" in str(broker)


def test_new_name_is_given_to_nobody_before_it_is_approved(
    device: Device, broker: Broker, enroll: Enroll
) -> None:
    code, outcome = enroll(device, approve="")
    assert (code, outcome["state"], outcome["name"]) == (1, "pending", NAME), outcome
    assert f"--approve {NAME}={outcome['key']}" in outcome["hint"]
    assert own_files(device) == {}
    assert not broker.ca.with_suffix(".issued").exists()
    assert enroll(device, "--dry-run", approve="")[1]["state"] == "pending"
    public = ["openssl", "pkey", "-in", "/etc/edge/device.key", "-pubout", "-outform", "DER"]
    digest = device.run(f"{' '.join(public)} | openssl dgst -sha256 -binary | base64")
    assert outcome["key"] == f"SHA256:{digest.strip().rstrip('=')}"
    code, outcome = enroll(device, approve=f"{NAME}=SHA256:{'A' * 43}")
    assert (code, outcome["state"]) == (2, "refused"), outcome
    assert "was approved for" in outcome["reason"]
    assert enroll(device, approve="another")[1]["state"] == "pending"
    assert own_files(device) == {}
    assert enroll(device)[1]["state"] == "enrolled"


def test_fresh_device_waits_for_a_release_and_a_new_board_for_a_word(
    device: Device, broker: Broker, enroll: Enroll
) -> None:
    code, planned = enroll(device, "--dry-run")
    assert (code, planned["state"], planned["key"]) == (0, "planned", "")
    assert "no key yet" in planned["notes"][0]
    assert not device.path("/etc/edge").exists()
    assert not device.path("/opt/edge").exists()
    code, outcome = enroll(device)
    assert (code, outcome["state"]) == (0, "enrolled"), outcome
    assert "the authority itself ends then" in outcome["notes"][0]
    assert "no release" in outcome["notes"][1]
    assert device.path("/etc/edge/environment").stat().st_mode & 0o777 == 0o600
    text = device.path("/etc/edge/device.crt").read_bytes()
    assert x509.load_pem_x509_certificate(text).serial_number == int(outcome["serial"], 16)
    before = own_files(device)
    code, planned = enroll(device, "--dry-run", mqtt="")
    assert (code, planned["state"], planned["ended"]) == (0, "planned", outcome["ends"])
    assert own_files(device) == before

    device.path("/etc/edge/device.key").unlink()
    code, outcome = enroll(device)
    assert (code, outcome["state"]) == (2, "refused"), outcome
    assert f"{NAME} was enrolled with another key" in outcome["reason"]
    assert own_files(device) == before
    revoke(broker)
    assert enroll(device)[0] == 0
    device.cut_power()
    unavailable(enroll(device), "can not be reached")


def test_device_that_is_not_right_is_refused_and_left_as_it_is(
    device: Device, enroll: Enroll, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(reason: str, *arguments: str, **named: str) -> None:
        code, outcome = enroll(device, *arguments, **named)
        assert (code, outcome["state"]) == (2, "refused"), outcome
        assert reason in outcome["reason"], outcome
        assert own_files(device) == {}

    refused("no broker with TLS is set there", mqtt="")
    liar = "import ondevice.enrolment as e, socket\nreal = e._request\n"
    for change, reason in (
        ("e._request = lambda key, name: real(key, 'other')", "its request is for 'other'"),
        ("e._request = lambda *_: 'nonsense'", "no request for a certificate"),
        ("socket.gethostname = lambda: 'a#b'", "'a#b' can not be the name"),
        ("e._present = lambda _: {}", "no edge of this version"),
    ):
        monkeypatch.setattr(connection, "program", lambda change=change: after_all(liar + change))
        refused(reason) if "#" not in change else unavailable(enroll(device), reason)
    monkeypatch.undo()
    key = device.path("/etc/edge/device.key")
    key.write_bytes(subprocess.check_output(["openssl", "genrsa", "2048"], stderr=-3))
    refused("neither P-256 nor Ed25519")
    key.write_text("nonsense")
    unavailable(enroll(device), "openssl req failed there")
    device.path("/opt/edge/first-boot.json").touch()
    unavailable(enroll(device), "its first boot is not over")


def after_all(text: str) -> bytes:
    """The program with this at the end of what it imports."""
    return program_after(f"import ondevice.session\n{text}\n")


def unavailable(told: Any, reason: str) -> None:
    code, outcome = told
    assert (code, outcome["state"]) == (3, "unavailable"), outcome
    assert reason in outcome["reason"], outcome


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a", "b", "--approve", "cam-1"], "any of these hosts"),
        (["a", "--approve", "=SHA256:x"], "is not like cam-1"),
        (["a", "--approve", "cam-1=x"], "is not like cam-1"),
        (["a", "--revoke", "cam-1"], "takes no hosts"),
        (["--revoke", "cam-1"], "nothing was issued to 'cam-1'"),
    ],
)
def test_words_that_can_not_be_meant_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    authority, key = make_authority(tmp_path / "ca", 1)
    assert exit_code(["enroll", *words, "--ca", str(authority), "--ca-key", str(key)]) == 2
    assert reason in capsys.readouterr().err


def exit_code(words: list[str]) -> int | str | None:
    try:
        return main(words)
    except SystemExit as ended:  # so argparse ends
        return ended.code


def test_urls_that_can_not_be_meant_are_refused(tmp_path: Path) -> None:
    authority, key = make_authority(tmp_path / "ca", 1)
    words = ["enroll", "device", "--ca", str(authority), "--ca-key", str(key)]
    for url in ("mqtt://broker.lan", "mqtts://me:secret@broker.lan", "broker.lan", "mqtts://a b"):
        assert main([*words, "--mqtt", url]) == 2


def survive(
    device: Device,
    broker: Broker,
    enroll: Enroll,
    numbers: range,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[int, int, int]:
    """Cut the power before each change.

    Says how often it was as before and as after, and how often the boot had to see to that.
    """
    disk = device.folder.with_name(device.folder.name + "-before")
    disk.mkdir()
    device.cut_power()
    device.copy_to(disk)
    before = own_files(device)
    was_enrolled = before.keys() == set(OWN)
    was, is_new, healed = 0, 0, 0
    for number in numbers:
        device.take_disk(disk)
        device.boot()
        if not cut_at(number, device, broker, enroll, monkeypatch):
            break
        healed += device.path("/opt/edge/enrolling").exists()
        device.boot()
        wait_until(lambda: device.versions() == {"m": "1"}, f"it serves after cut {number}")
        assert not device.path("/opt/edge/enrolling").exists(), number
        found = own_files(device)
        was, is_new = was + (found == before), is_new + (found != before)
        assert found == before or found.keys() == set(OWN), number
        if found != before or was_enrolled:
            wait_until(lambda: is_connected(device), f"the broker is connected after cut {number}")
        code, outcome = anew(enroll, device, broker)
        assert (code, outcome["state"]) == (0, "enrolled"), (number, outcome)
        wait_until(lambda: is_connected(device), "the broker is connected")
        device.cut_power()
    return was, is_new, healed


def anew(enroll: Enroll, device: Device, broker: Broker) -> Any:
    """To the register, a disk from before it had a key is that of another board."""
    broker.ca.with_suffix(".issued").unlink(missing_ok=True)
    return enroll(device)


def cut_at(
    number: int,
    device: Device,
    broker: Broker,
    enroll: Enroll,
    monkeypatch: pytest.MonkeyPatch,
) -> bool:
    """Enrol, and cut the power before the nth change; False if there are not so many."""
    monkeypatch.setattr(connection, "program", lambda: stopped_at(number))
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(anew(enroll, device, broker)))
    thread.start()
    mark = device.path("/run/cut")
    while thread.is_alive() and not mark.exists():
        time.sleep(0.01)
    was_cut = mark.exists()
    if was_cut:
        device.cut_power()
    thread.join()
    monkeypatch.undo()
    assert told[0][1]["state"] == ("unavailable" if was_cut else "enrolled"), told
    return was_cut


def test_a_cut_in_the_middle_leaves_what_was(
    served: Device, broker: Broker, enroll: Enroll, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert survive(served, broker, enroll, range(34, 35), monkeypatch) == (1, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("is_renewal", [False, True], ids=["first", "renewal"])
def test_each_cut_leaves_what_was_or_what_is(
    served: Device,
    broker: Broker,
    enroll: Enroll,
    monkeypatch: pytest.MonkeyPatch,
    is_renewal: bool,
) -> None:
    if is_renewal:
        enroll(served)
    was, is_new, healed = survive(served, broker, enroll, range(1, 1000), monkeypatch)
    print(f"{was} power cuts left what was ({healed} by the boot), {is_new} what is")
    assert was > 20
    assert is_new
    assert healed > 10

"""The life of a device from its first boot on, in QEMU: minutes, by hand and at night.

``make virtual`` runs it; what happened when is in ``build/virtual_device.md``.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from free_ports import free_port

from edge.bundle import open_bundle, pack, save_tensors
from edge.bundle.packing import sign
from edge.bundle.signing import read_signer
from edge.deploy.virtual.machine import HOST_AS_SEEN, Hardware, VirtualMachine

MODEL = "digits"
USER = "admin"
CACHE = Path("build/virtual").resolve()  # the root folder takes minutes: once is enough
PATIENCE_S = 3600.0  # an emulated processor, on two cores that others may want as well

_TOOLS = ("qemu-system-aarch64", "debootstrap", "sfdisk", "mcopy", "mosquitto", "ssh")
_PATH = f"{os.environ['PATH']}:/usr/sbin"
_missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_missing), reason=f"not installed: {', '.join(_missing)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes images"),
]


class Log:
    """Says what happened, and when since the start."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._stream = open(path, "w", buffering=1)  # noqa: SIM115
        self._start_s = time.monotonic()
        machine = platform.processor() or platform.machine()
        told = subprocess.run(["qemu-system-aarch64", "--version"], capture_output=True, text=True)
        qemu = told.stdout.partition("(")[0].strip()
        self._stream.write(
            "# The life of a virtual device\n\n"
            f"arm64, Debian 12, emulated by {qemu} on {os.cpu_count()} cores of {machine}, at a "
            f"load of {os.getloadavg()[0]:.0f}. Its times say nothing of a real board's.\n"
            "Made by `make virtual`.\n\n"
        )

    def __call__(self, text: str) -> None:
        self._stream.write(f"- {time.monotonic() - self._start_s:.0f} s: {text}\n")

    def close(self) -> None:
        self._stream.close()


class Life:
    """A virtual device, the operator's tools, and the broker between them."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder = folder
        self.log = log
        self.image = folder / "device.img"
        self.console = folder / "console.log"
        self.ssh_port, self.http_port, self.mqtt_port = (free_port() for _ in range(3))
        self.ssh_config = folder / "ssh_config"
        self.machine: VirtualMachine | None = None
        self._broker = _start_broker(folder, self.mqtt_port)
        self._make_keys()

    def edge(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edge", *words],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**os.environ, "XDG_CACHE_HOME": str(CACHE)},
        )
        assert done.returncode == code, f"edge {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def ssh(self, command: str) -> str:
        done = subprocess.run(
            ["ssh", "-F", self.ssh_config, "device", command], capture_output=True, text=True
        )
        return done.stdout.strip()

    def boot(self) -> None:
        hardware = Hardware(ports={self.ssh_port: 22, self.http_port: 8000})
        self.machine = VirtualMachine(self.image, hardware, self.console)
        self.machine.start()
        self.log("power on")

    def cut_power(self) -> None:
        assert self.machine is not None
        self.machine.close()
        self.log("power cut")

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """JSON, or None while nothing answers."""
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.loads(answer.read() or b"null")
        except (OSError, urllib.error.URLError, ValueError):
            return None

    def active(self) -> str:
        """The version that answers who names none."""
        ready = self.get("/v2/health/ready") or {"models": []}
        found = [one for one in ready["models"] if one["is_active"] and one["state"] == "ready"]
        return found[0]["version"] if found else ""

    def told(self) -> list[tuple[str, Any]]:
        """What the broker passed on so far: topics and what was said."""
        lines = (self.folder / "told").read_text().splitlines()
        pairs = [line.partition(" ") for line in lines]
        return [(topic, json.loads(said)) for topic, _, said in pairs if said.startswith("{")]

    def close(self) -> None:
        if self.machine is not None:
            self.machine.close()
        for process in self._broker:
            process.kill()
            process.wait()

    def _make_keys(self) -> None:
        for name in ("login", "fleet"):
            path = self.folder / name
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        self.ssh_config.write_text(
            f"Host device\n HostName 127.0.0.1\n Port {self.ssh_port}\n User {USER}\n"
            f" IdentityFile {self.folder}/login\n IdentitiesOnly yes\n BatchMode yes\n"
            f" StrictHostKeyChecking accept-new\n UserKnownHostsFile {self.folder}/known_hosts\n"
            " ConnectTimeout 30\n LogLevel ERROR\n"
        )


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    deadline_s = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"waited {patience_s:g} s in vain for {what}"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    log = Log(Path("build/virtual_device.md"))
    device = Life(tmp_path_factory.mktemp("virtual"), log)
    try:
        yield device
    finally:
        device.close()
        log.close()


@pytest.fixture(scope="module")
def bundles(life: Life, digits: Path) -> Callable[..., Path]:
    """Versions of the sample model, signed; a wrong one does not answer as its goldens say."""

    def make(version: str, *, is_wrong: bool = False) -> Path:
        path = life.folder / f"{version}.edge"
        life.edge(
            *("convert", str(digits / "digits.onnx"), "--profile", "virtual-arm64"),
            *("--spec", str(digits / "model.toml"), "--calib", str(digits / "calib")),
            *("--precision", "fp32", "--version", version, "-o", str(path)),
        )
        if is_wrong:
            _make_wrong(path)
        sign(path, read_signer(life.folder / "fleet"))
        return path

    return make


def test_device_serves_reports_updates_and_heals(life: Life, bundles: Callable[..., Path]) -> None:
    _first_boot(life, bundles("1"))
    _update_over_mqtt(life, bundles("2"))
    _update_over_ssh(life, bundles("3"))
    _new_kernel(life)
    _bad_update_over_ssh(life, bundles("4", is_wrong=True))
    _bad_update_over_mqtt(life, bundles("5", is_wrong=True))
    _power_cut_in_the_middle(life, bundles("6"))


def _first_boot(life: Life, bundle: Path) -> None:
    settings = life.folder / "edge.toml"
    settings.write_text(
        '[serve]\nhttp = "0.0.0.0:8000"\n[commands]\nupdate = true\n[mqtt]\ninterval_s = 2.0\n'
    )
    life.edge(
        *("flash", str(bundle), "--profile", "virtual-arm64", "-o", str(life.image)),
        *("--config", str(settings), "--hostname", "virtual-1", "--user", USER),
        *("--ssh-key", str(life.folder / "login.pub"), "--trust", str(life.folder / "fleet.pub")),
        *("--mqtt", f"mqtt://{HOST_AS_SEEN}:{life.mqtt_port}"),
    )
    life.log(f"image made: {life.image.stat().st_blocks * 512 / 1e6:.0f} MB on the disk")
    life.boot()
    until(lambda: life.ssh("hostname") == "virtual-1", "the user to be able to log in")
    assert life.ssh("test -d /sys/firmware/efi && echo by UEFI") == "by UEFI"
    life.log("UEFI and systemd-boot started it, the user can log in")
    until(lambda: life.active() == "1", "version 1 to be served")
    life.log("version 1 is served by ONNX Runtime's aarch64 wheel")
    with open_bundle(bundle) as opened:
        inputs, expected = opened.golden(opened.manifest.goldens[0])
        (name, value), (output, wanted) = next(iter(inputs.items())), next(iter(expected.items()))
    tensor = {
        "name": name,
        "shape": value.shape,
        "datatype": "FP32",
        "data": value.ravel().tolist(),
    }
    answer = life.get(f"/v2/models/{MODEL}/infer", {"inputs": [tensor]})
    given = next(one["data"] for one in answer["outputs"] if one["name"] == output)
    np.testing.assert_allclose(np.reshape(given, wanted.shape), wanted, atol=1e-3)
    life.log("a request over HTTP is answered as the goldens say")
    topics = {topic for topic, _ in life.told()}
    for path in ("status", "info", "tele/device", "tele/model", f"model/{MODEL}"):
        assert f"edge/v1/default/virtual-1/{path}" in topics
    life.log("its telemetry is at the host's broker")
    assert life.ssh("sudo stat -c %a /etc/edge/device.key") == "640"


def _update_over_mqtt(life: Life, bundle: Path) -> None:
    life.edge(*_roll_out(life, bundle))
    until(lambda: life.active() == "2", "version 2 to be served")
    life.log("version 2 came over MQTT, in chunks, and is served")


def _update_over_ssh(life: Life, bundle: Path) -> None:
    life.edge("deploy", str(bundle), "device", "--ssh-config", str(life.ssh_config))
    assert life.active() == "3"
    life.log("version 3 came over SSH, and is served")


def _new_kernel(life: Life) -> None:
    """What apt does: the next boot, which is the one after the power cut, is to take it."""
    new = f"{life.ssh('uname -r')}-new"
    for name in ("vmlinuz", "initrd.img"):
        life.ssh(f"sudo cp /boot/{name}-$(uname -r) /boot/{name}-{new}")
    hook = f"/etc/initramfs/post-update.d/systemd-boot {new} /boot/initrd.img-{new}"
    assert life.ssh(f"sudo {hook} && sync && echo done").endswith("done")
    assert "-new" not in life.ssh("cat /proc/cmdline")
    life.log("a new kernel is installed, as apt does it")


def _bad_update_over_ssh(life: Life, bundle: Path) -> None:
    life.edge("deploy", str(bundle), "device", "--ssh-config", str(life.ssh_config), code=1)
    assert life.active() == "3"
    assert life.ssh("sudo test -e /opt/edge/pending || echo none") == "none"
    life.log("version 4 does not answer as it should: version 3 is back")


def _bad_update_over_mqtt(life: Life, bundle: Path) -> None:
    life.edge(*_roll_out(life, bundle), code=1)
    assert life.active() == "3"
    life.log("version 5 over MQTT does not either, and never served")


def _power_cut_in_the_middle(life: Life, bundle: Path) -> None:
    words = ["deploy", str(bundle), "device", "--ssh-config", str(life.ssh_config)]
    deploying = subprocess.Popen(
        [sys.executable, "-m", "edge", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # Asked on the device itself: a look from outside takes longer than the switch.
    pending = "sudo sh -c 'until test -e /opt/edge/pending; do sleep 0.02; done'; echo yes"
    try:
        assert life.ssh(pending) == "yes"
        life.cut_power()
    finally:
        os.killpg(deploying.pid, signal.SIGKILL)
        deploying.wait()
    life.boot()
    until(lambda: life.active() in ("3", "6"), "a version to be served after the power cut")
    served = life.active()
    confirmed = "which had been confirmed" if served == "6" else "as nobody had confirmed version 6"
    life.log(f"version {served} is served, {confirmed}")
    assert life.ssh("sudo test -e /opt/edge/pending || echo none") == "none"
    assert "-new" in life.ssh("cat /proc/cmdline")
    life.log("the new kernel was booted")
    life.edge(*words)
    assert life.active() == "6"
    life.log("the same deployment again: version 6 is served")


def _roll_out(life: Life, bundle: Path) -> tuple[str, ...]:
    broker = ("--mqtt", f"mqtt://127.0.0.1:{life.mqtt_port}", "--fleet", "default")
    return ("fleet", *broker, "roll-out", str(bundle), "--soak", "5s", "--silence", "5m")


def _make_wrong(path: Path) -> None:
    """Change what the goldens expect; all digests are right."""
    parts = path.with_suffix(".parts")
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        for name in bundle.names():
            if name != "manifest.json":
                (parts / name).parent.mkdir(parents=True, exist_ok=True)
                (parts / name).write_bytes(bundle.read(name))
        golden = manifest.goldens[0]
        _, expected = bundle.golden(golden)
    wrong = {name: value + 1 for name, value in expected.items()}
    save_tensors(parts / golden.expected, wrong)
    pack(manifest, parts, path)


def _start_broker(folder: Path, port: int) -> list[subprocess.Popen[bytes]]:
    configuration = folder / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    broker = subprocess.Popen(["mosquitto", "-c", configuration], stderr=subprocess.DEVNULL)
    until(lambda: _listens(port), "the broker", 20)
    with open(folder / "told", "wb") as told:
        reader = subprocess.Popen(
            ["mosquitto_sub", "-p", str(port), "-t", "edge/#", "-v"], stdout=told
        )
    return [reader, broker]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

"""A device: a real sshd in mount and process namespaces of its own, whose end is a power cut."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from free_ports import free_port, listens
from patience import LONG_S, wait_until

FAKES = Path(__file__).parent
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
LogLevel ERROR
"""
CLIENT = """
Host {name}
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {folder}/client_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
"""
# Own folders over those of this machine that a deployment writes to, then a shell to go on with.
MOUNTS = """
set -e
for place in etc opt run var/lib var/cache; do mount --bind {folder}/$place /$place; done
mount --bind {fakes}/systemctl /usr/bin/systemctl
mount -t tmpfs none /root
{more}
exec "$@"
"""


def needs() -> str:
    """What is missing to make a device; empty if nothing is."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    ours, theirs = "{}.{}".format(*sys.version_info), _python()
    if theirs != ours:
        return f"needs packages for Python {theirs or '3'}, which devices have here, not for {ours}"
    if Path("/root") in FAKES.parents:
        return "needs a checkout that the service's user may read, not one in /root"
    missing = [name for name in ("ssh", "ssh-keygen", "unshare") if shutil.which(name) is None]
    if not os.path.exists("/usr/sbin/sshd"):
        missing.append("sshd")
    if missing:
        return f"needs {', '.join(missing)} (apt-get install openssh-server)"
    probe = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    return "" if subprocess.run(probe, capture_output=True).returncode == 0 else "needs namespaces"


class Device:
    """``folder`` holds its disk; ``boot`` and ``cut_power`` do what they say."""

    def __init__(self, folder: Path, name: str = "device") -> None:
        self.folder = folder
        self.name = name
        self.more_mounts = ""
        self.port = free_port()
        self.http = f"127.0.0.1:{free_port()}"
        self.config = folder / "ssh_config"
        self._process: subprocess.Popen[bytes] | None = None

    def make(self, disk: Path | None = None) -> None:
        """An empty disk, on which nothing of ours is, or a copy of another device's."""
        if disk is not None:
            _copy_disk(disk, self.folder)
            # The copy listens elsewhere than the original.
            self.path("/etc/edge/environment").write_text(f"EDGE_SERVE_HTTP={self.http}\n")
            self.write_config()
            return
        for place in ("opt", "run/systemd/system", "var/lib", "var/cache"):
            (self.folder / place).mkdir(parents=True)
        shutil.copytree("/etc", self.folder / "etc", symlinks=True)
        (self.folder / "run/sshd").mkdir(mode=0o755)
        for key in ("host_key", "client_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key]
            subprocess.run(command, check=True)
        self.write_config()

    def copy_to(self, disk: Path) -> None:
        """What a power cut leaves."""
        _copy_disk(self.folder, disk)

    def take_disk(self, disk: Path) -> None:
        """Start over with what ``copy_to`` saved."""
        self.cut_power()
        for name in ("etc", "opt", "var"):
            shutil.rmtree(self.folder / name)
        _copy_disk(disk, self.folder)

    def log(self) -> str:
        """What the device's processes said."""
        paths = (self.folder / "log", self.folder / "run/units.out")
        return "\n".join(path.read_text() for path in paths if path.exists())

    def write_config(self) -> None:
        facts = {"port": self.port, "folder": self.folder, "name": self.name}
        (self.folder / "sshd_config").write_text(SSHD.format(**facts))
        self.config.write_text(CLIENT.format(**facts))
        key = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")

    def boot(self) -> None:
        """Power on: what was running is not any more, what is on the disk starts."""
        assert self._process is None
        shutil.rmtree(self.folder / "run")
        (self.folder / "run/systemd/system").mkdir(parents=True)
        (self.folder / "run/sshd").mkdir(mode=0o755)
        mounts = MOUNTS.format(folder=self.folder, fakes=FAKES, more=self.more_mounts)
        begin = f"systemctl boot; exec /usr/sbin/sshd -D -e -f {self.folder}/sshd_config"
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        environ = {"PATH": PATH}
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "sh", "-c", mounts, "sh", "sh", "-c", begin],
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._listens, "sshd does not listen")

    def cut_power(self) -> None:
        """All processes of the device are gone at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def path(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def service(self) -> dict[str, Any]:
        """What its systemd knows of the service."""
        return dict(json.loads(self.path("/run/units/edge.service").read_text()))

    def run(self, command: str) -> str:
        """By root's hand, over SSH."""
        ssh = ["ssh", "-F", self.config, self.name, command]
        return subprocess.run(ssh, capture_output=True, text=True, check=True).stdout

    def ready(self) -> dict[str, Any]:
        """What the service says of itself; empty if it does not answer."""
        try:
            url = f"http://{self.http}/v2/health/ready"
            with urllib.request.urlopen(url, timeout=LONG_S) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            return dict(json.loads(error.read()))
        except OSError:
            return {}

    def versions(self) -> dict[str, str]:
        """What it serves: the active version by model."""
        models = self.ready().get("models", [])
        return {m["name"]: m["version"] for m in models if m["is_active"] and m["state"] == "ready"}

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        return listens(self.port)


def _python() -> str:
    """The version that a device uses, whose packages are those of this checkout."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    path = shutil.which("python3", path=PATH)
    command = [path or "false", "-c", code]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _copy_disk(source: Path, target: Path) -> None:
    (target / "run").mkdir(exist_ok=True)
    names = ("etc", "opt", "var", "host_key", "host_key.pub", "client_key", "client_key.pub")
    copied = [str(source / name) for name in names]
    subprocess.run(["cp", "-a", *copied, str(target)], check=True)

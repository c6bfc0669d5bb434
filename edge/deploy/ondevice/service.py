"""The systemd service: its user, its units, and whether it does what a release asks of it."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shutil
import socket
import subprocess
import time
from typing import Any

from . import store
from .layout import SERVICE, USER, Layout
from .refusal import RefusedError

_DEVICE_GROUPS = ("video", "render")  # of GPUs and NPUs, where a device has such groups
_LOOK_S = 0.25
_ENDED_TOO_OFTEN = 3
_MAKING = ("loading", "building", "warming", "staged")
_LONGEST_S = 3600.0


def systemctl(*arguments: str, timeout_s: float = 150.0) -> str:
    """What it prints.

    Raises:
        RefusedError: It is not there, or fails.
    """
    command = ["systemctl", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(f"{' '.join(command)} did not work: {error}") from error
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[0]
        raise RefusedError(f"{' '.join(command)} failed: {reason}", f"see journalctl -u {SERVICE}")
    return done.stdout.strip()


def ensure_user(layout: Layout) -> None:
    """The user that the service runs as, in the groups that GPUs and NPUs belong to."""
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        _run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir",
             layout.state, "--shell", "/usr/sbin/nologin", USER)  # fmt: skip
        user = pwd.getpwnam(USER)
    for group in _DEVICE_GROUPS:
        with contextlib.suppress(KeyError):
            if USER not in grp.getgrnam(group).gr_mem:
                _run("usermod", "--append", "--groups", group, USER)
    for folder in (layout.state, layout.cache):
        os.makedirs(folder, exist_ok=True)
        os.chown(folder, user.pw_uid, user.pw_gid)
    os.makedirs(layout.etc, exist_ok=True)


def run_as_user(layout: Layout, command: list[str], folder: str, timeout_s: float) -> Any:
    """Run a program as the service would; ``subprocess.CompletedProcess`` with text."""
    user = pwd.getpwnam(USER)
    environment = {
        **own_variables(layout),
        "PATH": os.environ["PATH"],
        "HOME": layout.state,
        "XDG_STATE_HOME": os.path.dirname(layout.state),
        "XDG_CACHE_HOME": os.path.dirname(layout.cache),
    }
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=folder,
        env=environment,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=os.getgrouplist(USER, user.pw_gid),
        umask=0o077,
    )


def is_active() -> bool:
    return show()["ActiveState"] == "active"


def show() -> dict[str, str]:
    """What systemd knows of the service."""
    try:
        text = systemctl("show", SERVICE, "-p", "ActiveState,SubState,Result,NRestarts,MainPID")
    except RefusedError:
        text = ""
    known = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {"ActiveState": "unknown", "SubState": "", "Result": "", "NRestarts": "0", **known}


def own_variables(layout: Layout) -> dict[str, str]:
    """Those of the device, as systemd gives them to the service."""
    found = {}
    with contextlib.suppress(OSError), open(layout.environment) as stream:
        for line in stream:
            name, mark, value = line.strip().partition("=")
            if mark and not name.startswith(("#", ";")):
                found[name] = value.strip("\"'")
    return found


def address(layout: Layout, release: dict[str, Any]) -> str:
    """Where the service listens, as this machine reaches it."""
    http = own_variables(layout).get("EDGE_SERVE_HTTP") or str(release["http"])
    host, _, port = http.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}.get(host, host)
    return f"http://{host}:{port}"


def readiness(url: str) -> dict[str, Any] | None:
    """What the service says of itself, ready or not; None if it does not answer."""
    # By hand: urllib.request takes longer to import than all else that a deployment does here.
    place = url.partition("://")[2]
    host, _, port = place.rpartition(":")
    request = f"GET /v2/health/ready HTTP/1.0\r\nHost: {place}\r\n\r\n"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
            connection.sendall(request.encode())
            data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        answer = json.loads(data.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def broker_state(answer: dict[str, Any] | None) -> str:
    """What the service says of its broker; empty if it has none."""
    return str(((answer or {}).get("mqtt") or {}).get("state", ""))


class Health:
    """Judges a release that was switched to: the process, its models' answers, its broker.

    Args:
        asks_broker: Whether the broker has to be connected; it need not if it was not before.
    """

    def __init__(self, layout: Layout, release: dict[str, Any], *, asks_broker: bool) -> None:
        self._layout = layout
        self._url = address(layout, release)
        self._models = release["models"]
        self._asks_broker = asks_broker
        self.notes: list[str] = []
        self.is_final = False

    def wait(self, timeout_s: float) -> str:
        """Empty once all is well, else why not.

        Time in which an engine is built or a model loaded does not count, up to an hour.
        """
        start_s = time.monotonic()
        spent_s = 0.0
        while True:
            reason, self.is_final, is_making = self.look()
            if not reason or self.is_final:
                return reason
            time.sleep(_LOOK_S)
            spent_s += 0.0 if is_making else _LOOK_S
            if spent_s >= timeout_s or time.monotonic() - start_s > _LONGEST_S:
                return reason

    def look(self) -> tuple[str, bool, bool]:
        """Why it is not well yet, whether that is final, and whether something is in the making."""
        answer = readiness(self._url)
        if answer is None:
            ended = _ended()
            return ended or f"nothing answers at {self._url}", bool(ended), False
        if "models" not in answer:
            return f"what answers at {self._url} is no edge", True, False
        brought = [(update["name"], update["version"]) for update in store.updates(self._layout)]
        for model in self._models:
            reason, is_final, is_making = _look_at(model, answer["models"])
            if reason and not _is_overtaken(model, answer["models"], brought):
                return reason, is_final, is_making
        broker = answer.get("mqtt") or {}
        if broker and broker.get("state") != "connected":
            reason = f"the broker is {broker.get('state')}: {broker.get('reason') or 'no answer'}"
            if self._asks_broker:
                return reason, broker.get("state") == "refused", False
            self.notes = [reason]
        return _ended(), True, False


def _ended() -> str:
    """Why systemd has given up on it, or is about to; empty while it runs."""
    known = show()
    if known["ActiveState"] == "failed" or int(known["NRestarts"]) >= _ENDED_TOO_OFTEN:
        return f"the service ended ({known['Result']}): {last_words()}"
    return ""


def _look_at(model: dict[str, Any], statuses: list[dict[str, Any]]) -> tuple[str, bool, bool]:
    title = f"{model['name']} {model['version']}"
    ours = [status for status in statuses if status.get("digest") == model["digest"]]
    if not ours:
        return f"{title} was not found by the service", False, False
    status = ours[0]
    state = status.get("state")
    if state == "failed":
        return f"{title} failed: {status.get('reason')}", True, False
    if state not in ("ready", "idle"):
        return f"{title} is {state}", False, state in _MAKING
    return ("", True, False) if status.get("is_active") else (f"{title} waits", False, False)


def _is_overtaken(
    model: dict[str, Any], statuses: list[dict[str, Any]], brought: list[tuple[str, str]]
) -> bool:
    """Whether a version serves in its place that a command brought to this release."""
    serving = [(s.get("name"), s.get("version")) for s in statuses if s.get("is_active")]
    return any(one[0] == model["name"] and one in brought for one in serving)


def last_words() -> str:
    command = ["journalctl", "-u", SERVICE, "-n", "5", "-o", "cat", "--no-pager"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        lines = [line for line in done.stdout.splitlines() if "rror" in line] or [""]
        return lines[-1][:500] or f"see journalctl -u {SERVICE}"
    return f"see journalctl -u {SERVICE}"


def _run(*command: str) -> None:
    path = shutil.which(command[0])
    if path is None:
        raise RefusedError(f"there is no {command[0]} here")
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusedError(f"{' '.join(command)} failed: {done.stderr.strip()}")

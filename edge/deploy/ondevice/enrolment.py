"""Who this device is to a broker: the key is made here and stays, the certificate comes."""

from __future__ import annotations

import contextlib
import grp
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from . import durable, service
from .layout import SERVICE, USER, Layout
from .refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[str], None]

# What stays is one file for each of these in /etc/edge; the service may read them.
_KEY, _CERTIFICATE, _BROKER_CA = "device.key", "device.crt", "broker-ca.pem"
_MODE = 0o640
_SECRET_MODE = 0o600
_BACK_TIMEOUT_S = 60.0

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_VARIABLE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_MQTT_SECTION = re.compile(r"^\s*\[\s*mqtt\s*\][^\n]*\n(.*?)(?=^\s*\[[^\n]*\]\s*$|\Z)", re.M | re.S)


def identity(layout: Layout, *, may_make: bool) -> dict[str, Any]:
    """A request for a certificate, signed by this device's own key, and what it has already.

    Args:
        may_make: Whether to make a key where there is none; ``request`` is empty otherwise.
    Raises:
        RefusedError: There is no openssl, or the key or the host's name can't be used; or the
            first boot, which names it and makes its key, goes on.
    """
    if os.path.exists(layout.first_boot):
        raise RefusedError(
            "its first boot is not over", "wait for it: journalctl -fu edge-first-boot"
        )
    name = socket.gethostname()
    if not _NAME.fullmatch(name):
        raise RefusedError(
            f"its host name {name!r} can not be the name of a device",
            "set another one there: hostnamectl set-hostname NAME",
        )
    key = _path(layout, _KEY)
    if may_make and not _has(key):
        service.ensure_user(layout)
        durable.write(key, _make_key(), _SECRET_MODE)
        _give(key)
    return {
        "hostname": name,
        "request": _request(key, name) if _has(key) else "",
        "certificate": _read(_path(layout, _CERTIFICATE)).decode("ascii", "replace"),
        **_present(layout),
    }


def enroll(
    layout: Layout, *, certificate: str, broker_ca: str, url: str, timeout_s: float, say: Say
) -> dict[str, Any]:
    """Use a certificate; if the broker does not take it in time, all is as before.

    What was there is written down first: whoever finds that without a workstation at work takes
    the enrolment back.

    Args:
        broker_ca: Whom to believe that it is the broker, as PEM; empty leaves that as it is.
        url: The broker; empty leaves it as it is.
    Returns:
        ``state``: ``confirmed``, ``unchecked`` where nothing serves, or ``put-back``; ``reason``.
    """
    service.ensure_user(layout)
    key, signed, believed = (_path(layout, name) for name in (_KEY, _CERTIFICATE, _BROKER_CA))
    files = {signed: certificate.encode()}
    settings = {"EDGE_MQTT_CERTIFICATE": signed, "EDGE_MQTT_KEY": key}
    if broker_ca:
        files[believed] = broker_ca.encode()
        settings["EDGE_MQTT_CA"] = believed
    if url:
        settings["EDGE_MQTT_URL"] = url
    changed = _with_settings(_read(layout.environment), settings)
    kept = {path: _kept(path) for path in (*files, layout.environment)}
    durable.write(_marker(layout), durable.encode(kept), _SECRET_MODE)
    try:
        _give(key)
        for path, data in files.items():
            durable.write(path, data, _MODE)
            _give(path)
        mode = (kept[layout.environment] or {"mode": _SECRET_MODE})["mode"]
        durable.write(layout.environment, changed, mode)
        _own_as(layout.environment, kept[layout.environment])
        is_served = durable.read_json(_release(layout)) is not None
        reason = _restart(layout, timeout_s, say, asks_broker=True) if is_served else ""
    except (OSError, RefusedError) as error:
        reason, is_served = str(error), durable.read_json(_release(layout)) is not None
    if not reason:
        durable.remove(_marker(layout))
        return {"state": "confirmed" if is_served else "unchecked", "reason": ""}
    say(f"putting back: {reason}")
    take_back(layout)
    back = _restart(layout, _BACK_TIMEOUT_S, say, asks_broker=False) if is_served else ""
    return {"state": "put-back", "reason": reason, "back": back}


def take_back(layout: Layout) -> str:
    """Undo an enrolment that was not confirmed, without starting anything; says what was done."""
    kept = durable.read_json(_marker(layout))
    if kept is None:
        return ""
    for path, was in kept.items():
        if was is None:
            durable.remove(path)
            continue
        data = was["text"].encode("latin-1")
        if _read(path) != data:  # a full disk is no reason not to get here
            durable.write(path, data, was["mode"])
        _own_as(path, was)
    durable.remove(_marker(layout))
    return "an enrolment was not confirmed: back to the settings before"


def _present(layout: Layout) -> dict[str, Any]:
    """What the service knows of its broker, by the device's own settings or its release's."""
    known = _variables(_read(layout.environment))
    section = _MQTT_SECTION.search(
        _read(os.path.join(layout.current, "edge.toml")).decode(errors="replace")
    )
    lines = section[1].splitlines() if section else []
    by_release = "\n".join(line.partition("#")[0] for line in lines)
    has_ca = re.search(r"^\s*ca\s*=", by_release, re.MULTILINE) is not None
    return {
        "has_broker": "mqtts://" in known.get("EDGE_MQTT_URL", by_release),
        "has_broker_ca": bool(known.get("EDGE_MQTT_CA")) or has_ca,
        "device": known.get("EDGE_MQTT_DEVICE", ""),
    }


def _restart(layout: Layout, timeout_s: float, say: Say, *, asks_broker: bool) -> str:
    """Empty once the service runs, and its broker is connected if that is asked for."""
    say("restarting")
    try:
        service.systemctl("reset-failed", SERVICE)
        service.systemctl("restart", SERVICE)
    except RefusedError as refusal:
        return f"{refusal}: {service.last_words()}"
    say("waiting for the broker" if asks_broker else "waiting for the service")
    release = {**durable.read_json(_release(layout)), "models": []}  # they are no matter of ours
    return service.Health(layout, release, asks_broker=asks_broker).wait(timeout_s)


def _with_settings(text: bytes, settings: dict[str, str]) -> bytes:
    """The file of the service's variables with these set, and all other lines as they are."""
    left = dict(settings)
    lines = []
    is_continued = False
    for line in text.decode("latin-1").splitlines():
        found = None if is_continued else _VARIABLE.fullmatch(line)
        is_continued = line.endswith("\\")
        if found is None or found[1] not in settings:
            lines.append(line)
        elif found[1] in left:
            lines.append(f"{found[1]}={left.pop(found[1])}")
    lines += [f"{name}={value}" for name, value in left.items()]
    return "".join(f"{line}\n" for line in lines).encode("latin-1")


def _variables(text: bytes) -> dict[str, str]:
    found = map(_VARIABLE.fullmatch, text.decode("latin-1").splitlines())
    return {one[1]: one[2].strip("\"'") for one in found if one}


def _make_key() -> bytes:
    return _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


def _request(key: str, name: str) -> str:
    return _openssl("req", "-new", "-batch", "-key", key, "-subj", f"/CN={name}").decode()


def _openssl(*arguments: str) -> bytes:
    command = ["openssl", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(
            f"openssl did not work there: {error}", "apt-get install openssl"
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise RefusedError(
            f"openssl {arguments[0]} failed there: {said[0][:200]}",
            "if the key is damaged, it makes another one: rm /etc/edge/device.key",
        )
    return done.stdout


def _kept(path: str) -> dict[str, Any] | None:
    with contextlib.suppress(FileNotFoundError):
        known = os.stat(path)
        text = _read(path).decode("latin-1")
        mode = known.st_mode & 0o777
        return {"text": text, "mode": mode, "uid": known.st_uid, "gid": known.st_gid}
    return None


def _own_as(path: str, was: dict[str, Any] | None) -> None:
    if was is not None:
        os.chown(path, was["uid"], was["gid"])
        os.chmod(path, was["mode"])


def _give(path: str) -> None:
    """The service may read it, and nobody else."""
    os.chown(path, 0, grp.getgrnam(USER).gr_gid)
    os.chmod(path, _MODE)


def _has(path: str) -> bool:
    return bool(_read(path))


def _read(path: str) -> bytes:
    """Empty if it is not there."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
        return stream.read()
    return b""


def _path(layout: Layout, name: str) -> str:
    return os.path.join(layout.etc, name)


def _marker(layout: Layout) -> str:
    return layout.in_base("enrolling")


def _release(layout: Layout) -> str:
    return os.path.join(layout.current, "release.json")

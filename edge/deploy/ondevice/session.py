"""Does what a workstation asks for, for as long as it stays connected."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from . import durable, enrolment, facts, service, store, switch
from .layout import FIRST_BOOT, HEAL, SERVICE, Layout
from .refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

GREETING = {"edge-device": 1}
_CHECK_TIMEOUT_S = 3600.0  # on a Jetson, engines are built
PATIENCE_S = 120  # who is there says so more often: Connection.kept


class Patient:
    """Reads from who may have gone without a word: then this process ends, and its lock with it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readline(self) -> bytes:
        signal.alarm(PATIENCE_S)
        try:
            return self._stream.readline()
        finally:
            signal.alarm(0)

    def read(self, size: int) -> bytes:
        """What there is of it; a slow network has brought something by then."""
        signal.alarm(PATIENCE_S)
        try:
            return bytes(self._stream.read1(size))  # type: ignore[attr-defined]  # of all buffers
        finally:
            signal.alarm(0)


class Session:
    """Answers one workstation: a line of JSON each way, and files as plain bytes after their line.
    An empty line is no question.

    What has begun is finished when the connection ends: a switch is confirmed or taken back here.
    """

    def __init__(self, layout: Layout, source: BinaryIO, target: BinaryIO) -> None:
        self._layout = layout
        self._source = Patient(source)
        self._target = target
        self._verbs: dict[str, Callable[..., Any]] = {
            "facts": self._facts,
            "lock": self._take_lock,
            "held": self._held,
            "stale": self._stale,
            "send": self._send,
            "place": self._place,
            "install": self._install,
            "assemble": self._assemble,
            "check": self._check,
            "switch": self._switch,
            "status": self._status,
            "identity": self._identity,
            "enroll": self._enroll,
            "remove": self._remove,
        }

    def run(self) -> None:
        self._tell(GREETING)
        while True:
            line = self._source.readline()
            if not line.endswith(b"\n"):
                return
            if line == b"\n":
                continue
            request = json.loads(line)
            verb = self._verbs[request.pop("do")]
            try:
                self._tell({"result": verb(**request)})
            except EOFError:
                return
            except RefusedError as refusal:
                self._tell({"error": str(refusal), "hint": refusal.hint})
            except OSError as error:
                self._tell(_told(error))

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody may listen any more; what is under way goes on
            self._target.write(json.dumps(message).encode() + b"\n")
            self._target.flush()

    def _say(self, text: str) -> None:
        self._tell({"event": text})

    def _facts(self) -> dict[str, Any]:
        known = {**facts.gather(self._layout), **facts.existing(self._layout)}
        return {**known, "updates": store.updates(self._layout)}

    def _take_lock(self, who: str) -> str:
        """Until the connection ends; gives what an interrupted deployment left to take back."""
        os.makedirs(self._layout.base, exist_ok=True)
        lock = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(lock, 200, 0).decode(errors="replace") or "somebody else"
            raise RefusedError(
                f"{other} deploys to it right now",
                f"wait until that has ended; a connection that was cut ends within {PATIENCE_S} s",
            ) from None
        with contextlib.suppress(OSError):  # on a full disk it holds without a name
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{who} (since {time.strftime('%H:%M:%S %Z')})".encode(), 0)
        store.prepare(self._layout)
        undone = (switch.take_back(self._layout), enrolment.take_back(self._layout))
        healed = "; ".join(filter(None, undone))
        if healed and service.is_active():
            service.systemctl("restart", SERVICE)
        return healed

    def _held(self, files: list[str]) -> dict[str, int]:
        return store.held(self._layout, files)

    def _stale(self, files: dict[str, str]) -> list[str]:
        """The paths at which there is not the file with that digest."""
        return [path for path, sha256 in files.items() if store.digest_of(path) != sha256]

    def _send(self, sha256: str, offset: int, size: int) -> None:
        store.receive(self._layout, sha256, offset, size, self._source)

    def _place(self, files: list[dict[str, Any]]) -> None:
        service.ensure_user(self._layout)
        for file in files:
            store.place(self._layout, file["path"], file["sha256"], file["mode"])
        switch.enable()

    def _install(self, runtime: dict[str, Any]) -> bool:
        return store.install_runtime(self._layout, runtime, self._say)

    def _assemble(self, release: dict[str, Any], keep: list[dict[str, Any]]) -> None:
        store.assemble(self._layout, release, keep)

    def _check(self, digest: str) -> None:
        """Digests and goldens by the new runtime, as the service's user, ahead of the switch."""
        folder = self._layout.release(digest)
        release = durable.read_json(os.path.join(folder, "release.json"))
        python = os.path.join(folder, "runtime", "bin", "python")
        for model in release["models"]:
            path = os.path.join(folder, "models", model["name"], model["version"] + ".edge")
            self._say(f"checking {model['name']} {model['version']}")
            command = [python, "-I", "-m", "edge", "verify", path]
            done = service.run_as_user(self._layout, command, folder, _CHECK_TIMEOUT_S)
            if done.returncode:
                lines = (done.stderr.strip() or done.stdout.strip() or "no reason").splitlines()
                title = f"{model['name']} {model['version']}"
                raise RefusedError(*_verified(title, path, lines))

    def _switch(self, digest: str, is_live: bool, timeout_s: float) -> dict[str, Any]:
        digest = digest or switch.previous(self._layout)
        if not digest:
            raise RefusedError("there is no release before this one to go back to")
        return switch.switch(
            self._layout, digest, is_live=is_live, timeout_s=timeout_s, say=self._say
        )

    def _status(self) -> dict[str, Any]:
        known = facts.existing(self._layout)
        release = known["release"]
        answer = None
        if release:
            answer = service.readiness(service.address(self._layout, release))
        return {**known, "service": service.show(), "readiness": answer}

    def _identity(self, may_make: bool) -> dict[str, Any]:
        return enrolment.identity(self._layout, may_make=may_make)

    def _enroll(self, **arguments: Any) -> dict[str, Any]:
        return enrolment.enroll(self._layout, say=self._say, **arguments)

    def _remove(self) -> bool:
        """Take all away but the settings of the device and what the service learned."""
        was_there = os.path.isdir(self._layout.releases)
        for unit in (SERVICE, HEAL, FIRST_BOOT):
            path = os.path.join(self._layout.units, unit)
            if os.path.exists(path):
                service.systemctl("disable", "--quiet", "--now", unit)
                durable.remove(path)
        service.systemctl("daemon-reload")
        durable.remove_tree(self._layout.base)
        return was_there


def _verified(title: str, path: str, lines: list[str]) -> tuple[str, str]:
    """What edge verify says of a bundle that is not to serve, and what to do."""
    kept = "what serves was not touched"
    for line in lines:
        if line.startswith("error: "):
            hints = [hint[len("hint: ") :] for hint in lines if hint.startswith("hint: ")]
            reason = line[len("error: ") :].replace(f"{path}: ", "")
            return f"{title} is refused there: {reason}", "; ".join([*hints, kept])
    told = [line for line in lines if line.startswith("✗")] or lines
    return f"{title} does not answer right there: {told[0]}", kept


def _told(error: OSError) -> dict[str, Any]:
    where = f" ({error.filename})" if error.filename else ""
    todo = {
        errno.ENOSPC: "make room on the device; ",
        errno.EDQUOT: "make room on the device; ",
        errno.EROFS: "mount it writable, or another file system at /opt/edge; ",
    }
    hint = todo.get(error.errno or 0, "") + "what serves was not touched"
    return {"error": f"{error.strerror or error}{where}", "hint": hint}

"""One worker process, from its start until it is known how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.core.errors import EngineError, InputError, UnavailableError
from edge.host.isolation import wire
from edge.host.isolation.lane import Lane, NotSentError
from edge.host.isolation.wire import Failure, Opened

if TYPE_CHECKING:
    from edge.core.errors import EdgeError
    from edge.host.isolation.limits import Limits
    from edge.host.isolation.wire import Order

log = logging.getLogger(__name__)

# Nothing is imported from the working directory, where `-m` would look first; and the same is
# found as here, wherever that was.
_CODE = """import sys
fd, pid, *sys.path = sys.argv[1:]
from edge.host.isolation.worker import main
main(int(fd), int(pid))"""

_RECORD = b"\x1e"
_LAST_LINES = 5
_LINE_BYTES = 16 * 1024
_GRACE_S = 2.0
"""For a worker that was told to go, before it is killed."""

_LISTEN_S = 0.5
"""For what it said at its end, which is there as a rule before anybody asks."""

_decode_record = msgspec.json.Decoder(tuple[int, str, str]).decode


class Worker:
    """A process that serves one variant.

    It is killed by the kernel when the thread that made this ends, and so with the host, however
    that ends: let a thread do it that waits for the end.

    Raises:
        InputError: The order holds an option that can't be handed on.
        UnavailableError: The system starts no process.
    """

    def __init__(self, order: Order, limits: Limits) -> None:
        self._name = order.name
        self._limits = limits
        self._verdict = ""
        self._lanes: set[Lane] = set()
        self._idle: list[Lane] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.end: EngineError | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        request = _encoded(order)
        try:
            self._control, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise UnavailableError(f"no way to a worker: {error.strerror}") from error
        try:
            with there:
                self._process = _start(request, there.fileno())
        except OSError as error:
            self._control.close()
            raise UnavailableError(
                f"no process for {order.name} can be started: {error.strerror}"
            ) from error
        self._reader = threading.Thread(target=self._listen, name="edge-worker-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_reaped(self) -> bool:
        """Whether it has ended and its pid is free for another process."""
        return self._process.returncode is not None

    def opened(self, timeout_s: float) -> Opened:
        """Wait until it has opened its variant; 0 for any time.

        Raises:
            EdgeError: It could not, or ended, or took too long.
        """
        self._control.settimeout(timeout_s or None)
        try:
            message = self._control.recv(wire.LIMIT_BYTES)
        except TimeoutError:
            self.kill(f"did not come up within {timeout_s:g} s")
            message = b""
        except OSError:
            message = b""
        if not message:
            raise self.wait()
        reply: Opened | Failure = wire.decode_opening(message)
        if isinstance(reply, Failure):
            raise reply.error
        self._control.settimeout(None)
        return reply

    def take_lane(self) -> Lane:
        """A lane that nobody else uses, until it is given back or dropped.

        Raises:
            NotSentError: The worker is gone.
            UnavailableError: The system has no room for one more.
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()  # the one used last: its memory is still in the caches
        lane = Lane(self._control, self._limits.timeout_s)
        with self._lock:
            if not self._ended.is_set():
                self._lanes.add(lane)
                return lane
        lane.close()
        raise NotSentError

    def give_lane(self, lane: Lane) -> None:
        with self._lock:
            if not self._ended.is_set():
                self._idle.append(lane)
                return
        lane.close()

    def drop_lane(self, lane: Lane) -> None:
        """Use a lane no more, of which nobody knows what comes out of it next."""
        with self._lock:
            self._lanes.discard(lane)
        lane.close()

    def kill(self, verdict: str = "") -> None:
        """End it at once; any thread may call it."""
        if self.is_reaped:  # of something else, which is to be told
            return
        self._verdict = self._verdict or verdict
        with contextlib.suppress(OSError):
            self._process.kill()

    def why_it_ended(self) -> EngineError:
        """Of a worker that does not answer, and so has ended or soon will have, if need be by
        force."""
        if not self._ended.wait(_GRACE_S):
            self.kill("closed its sockets")
            self._ended.wait(_GRACE_S)
        return self.end or EngineError(
            f"the worker of {self._name} (pid {self.pid}) does not even end when it is killed",
            hint="a driver holds it: see dmesg",
        )

    def stop(self) -> None:
        """Tell it to end, and see that it does."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if not self._ended.wait(_GRACE_S):
            self.kill("did not end when it was told to")
            if not self._ended.wait(_GRACE_S):
                log.error("%s", self.why_it_ended())

    def wait(self) -> EdgeError:
        """Wait until it has ended, and say how; for the thread that made it."""
        if self.end is not None:
            return self.end
        code = self._process.wait()
        self._reader.join(_LISTEN_S)  # what it started itself may hold the pipe open for longer
        with self._lock:
            self.end = self._obituary(code)
            self._ended.set()
            idle, self._idle = self._idle, []
            for lane in self._lanes:
                lane.hang_up()
        for lane in idle:
            lane.close()
        self._control.close()
        return self.end

    def _obituary(self, code: int) -> EngineError:
        hint = ""
        if code == -signal.SIGKILL and self._verdict:
            how = f"{self._verdict} and was killed"
        elif code == -signal.SIGKILL:
            how, hint = "was killed by SIGKILL", "where nobody did it, memory was short: see dmesg"
        elif code < 0:
            name = next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
            how = f"was killed by {name}"
        else:
            how = f"ended with exit code {code}"
        said = "; its last words: " + " | ".join(self._last_lines) if self._last_lines else ""
        return EngineError(f"the worker of {self._name} (pid {self.pid}) {how}{said}", hint=hint)

    def _listen(self) -> None:
        """Log what it says, until nobody can say any more."""
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            while line := pipe.readline(_LINE_BYTES):
                level, logger, text = _record(line)
                if text:
                    self._last_lines.append(text)
                    logging.getLogger(logger).log(level, "%s: %s", self._name, text)


def resident_bytes(pid: int) -> int:
    """What a process holds, its part of what it shares included; 0 where that can't be told."""
    return _told_bytes(pid, "smaps_rollup", "Pss:")


def passed_bytes(pid: int) -> int:
    """How much more than now a process once held."""
    return _told_bytes(pid, "status", "VmHWM:") - _told_bytes(pid, "status", "VmRSS:")


def _told_bytes(pid: int, file: str, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def _record(line: bytes) -> tuple[int, str, str]:
    """Level, logger and text; what is no record is what an engine printed."""
    if line.startswith(_RECORD):
        with contextlib.suppress(msgspec.DecodeError):
            return _decode_record(line[1:])
    return logging.INFO, __name__, line.decode(errors="replace").strip()


def _encoded(order: Order) -> bytes:
    level = logging.getLogger().getEffectiveLevel()
    try:
        return wire.encode(msgspec.structs.replace(order, log_level=level))
    except (NotImplementedError, TypeError, OverflowError) as error:
        raise InputError(
            f"an option of {order.name} can't be handed to a worker: {error}",
            hint='give numbers and text only, or use isolation = "inproc"',
        ) from error


def _start(order: bytes, control_fd: int) -> subprocess.Popen[bytes]:
    with os.fdopen(os.memfd_create("edge-order"), "wb+") as request:
        request.write(order)
        request.seek(0)  # which flushes
        return subprocess.Popen(
            [
                *(sys.executable, "-u", "-X", "faulthandler", "-c", _CODE),
                *(str(control_fd), str(os.getpid()), *sys.path),
            ],
            stdin=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[control_fd],
            start_new_session=True,
        )

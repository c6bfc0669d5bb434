"""One SSH connection to a device, with our program at its other end."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import msgspec

from edge.core.errors import EdgeError, InputError, UnavailableError
from edge.deploy.failures import NO_PYTHON, broken, explain
from edge.deploy.program import program
from edge.deploy.release import CHUNK_BYTES, Contents, size_of

Say = Callable[[str], None]
Progress = Callable[[int], None]
"""Called with how many bytes of a file were sent."""

# What `ssh -v` says, besides what it would say without.
_HOST_KEY = re.compile(rb"debug1: Server host key: (\S+ \S+)")
_VERBOSE = (b"debug1: ", b"OpenSSH_", b"Authenticated to ", b"Transferred: ", b"Bytes per second: ")

_BEAT_S = 20.0  # well within session.PATIENCE_S
_GREETED_S = 300.0  # a login shell may wait for somebody; an emulated device takes a minute
_GREETING = b'{"edge-device": 1}'
_OPTIONS = {
    "BatchMode": "yes",  # many hosts at once: nobody could tell who is asked for a password
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
}
_LOADER = """
import os, sys
memory = os.memfd_create("edge-device")
with open(memory, "wb", closefd=False) as file:
    file.write(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))
sys.path.insert(0, f"/proc/self/fd/{memory}")
from ondevice.main import serve
serve()
"""
# The newest Python first that our own packages could run on; else any that can at least say what
# is missing here.
_SHELL = f"""
if [ "$(id -u)" != 0 ]; then exec sudo -n -- sh -c "$0" "$0"; fi
for minor in 10 8; do
  for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8
  do
    if $python -I -S -c "import sys; sys.exit(sys.version_info < (3, $minor))" 2>/dev/null; then
      exec $python -I -u -c {shlex.quote(_LOADER)}
    fi
  done
done
echo {NO_PYTHON} >&2
exit 1
"""


class RemoteError(UnavailableError):
    """The device refused a step; nothing that serves there has changed."""


class Connection:
    """Asks the program on the device, one thing at a time. A context; made by ``connect``."""

    def __init__(self, host: str, process: subprocess.Popen[bytes]) -> None:
        self.host = host
        self.host_key = ""  # its type and fingerprint, if ssh was told to be verbose
        self._process = process
        self._stderr: list[bytes] = []
        self._before: list[bytes] = []  # what a login shell prints
        self._is_greeted = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def ask(self, do: str, say: Say | None = None, **arguments: Any) -> Any:
        """What the device answers.

        Args:
            say: Told what it is doing meanwhile.
        Raises:
            RemoteError: The device refused.
            UnavailableError: The connection is lost.
        """
        self._write(msgspec.json.encode({"do": do, **arguments}) + b"\n")
        return self._answer(say)

    def send(self, sha256: str, contents: Contents, offset: int, progress: Progress) -> int:
        """Bring a file over, from ``offset`` on; gives how many bytes that were.

        Raises:
            RemoteError: It does not arrive whole, or there is no room.
            UnavailableError: The connection is lost.
        """
        request = {"do": "send", "sha256": sha256, "offset": offset, "size": size_of(contents)}
        self._write(msgspec.json.encode(request) + b"\n")
        sent = 0
        for chunk in _chunks(contents, offset):
            self._write(chunk)
            sent += len(chunk)
            progress(sent)
        self._answer(None)
        return sent

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Let the device know that we are there, while there is nothing to ask for long."""
        is_over = threading.Event()

        def tell() -> None:
            with contextlib.suppress(EdgeError):  # the next question says it
                while not is_over.wait(_BEAT_S):
                    self._write(b"\n")

        beat = threading.Thread(target=tell, daemon=True)
        beat.start()
        try:
            yield
        finally:
            is_over.set()
            beat.join()

    def close(self) -> None:
        """Hang up. What the device has begun, it ends."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(5)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def greet(self) -> None:
        """Send the program, and wait until it answers; what a login shell prints is skipped."""
        data = program()
        late = threading.Timer(_GREETED_S, self._give_up)
        late.daemon = True
        late.start()
        try:
            self._write(b"%d\n" % len(data) + data)
            while (line := self._line()) != _GREETING:
                self._before = [*self._before[-20:], line[:1000] + b"\n"]
        finally:
            late.cancel()
        self._is_greeted = True

    def _give_up(self) -> None:
        self._before.append(b"no answer within %d s" % _GREETED_S)
        self._process.kill()

    def _answer(self, say: Say | None) -> Any:
        while True:
            message = msgspec.json.decode(self._line())
            if "event" in message:
                if say is not None:
                    say(message["event"])
            elif "error" in message:
                raise RemoteError(message["error"], hint=message["hint"])
            else:
                return message["result"]

    def _line(self) -> bytes:
        stdout: IO[bytes] = self._process.stdout  # type: ignore[assignment]  # it is a pipe
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise self._failure()
        return line.rstrip()

    def _write(self, data: bytes) -> None:
        stdin: IO[bytes] = self._process.stdin  # type: ignore[assignment]  # it is a pipe
        try:
            stdin.write(data)
            stdin.flush()
        except (BrokenPipeError, ConnectionError) as error:
            raise self._failure() from error

    def _failure(self) -> EdgeError:
        """Why the connection ended."""
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._listener.join(5)
        text = b"".join(self._stderr or self._before).decode(errors="replace")
        return broken(self.host, text) if self._is_greeted else explain(self.host, text)

    def _listen(self) -> None:
        stderr: IO[bytes] = self._process.stderr  # type: ignore[assignment]  # it is a pipe
        for line in stderr:
            if found := _HOST_KEY.match(line):
                self.host_key = found[1].decode(errors="replace")  # of a host on the way, then ours
            if not line.startswith(_VERBOSE):
                self._stderr = [*self._stderr[-20:], line[:1000]]


def connect(host: str, options: tuple[str, ...] = ()) -> Connection:
    """Connect as the user's own ``ssh`` does, with the keys and settings that it has.

    Args:
        host: As ssh takes it: ``user@host``, or a name in ``~/.ssh/config``.
        options: More arguments for ssh, such as ``-F FILE``.
    Raises:
        UnavailableError: There is no ssh, or the host does not let us in.
        InputError: It has no right to install anything there.
    """
    if host.startswith("-"):
        raise InputError(f"{host!r} is no host")
    given = [word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}")]
    command = ["ssh", "-T", *options, *given, "--", host, f"exec sh -c {shlex.quote(_SHELL)} "]
    command[-1] += shlex.quote(_SHELL)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise UnavailableError(
            f"ssh can not be started: {error.strerror}", hint="apt-get install openssh-client"
        ) from error
    connection = Connection(host, process)
    try:
        connection.greet()
    except BaseException:
        connection.close()
        raise
    return connection


def _chunks(contents: Contents, offset: int) -> Iterator[bytes]:
    if isinstance(contents, bytes):
        yield contents[offset:]
        return
    with open(contents, "rb") as stream:
        stream.seek(offset)
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk

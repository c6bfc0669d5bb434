"""A host's way into its worker: one run at a time, through memory that both see."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import msgspec

from edge.core.errors import EngineError, UnavailableError
from edge.host.isolation import wire
from edge.host.isolation.arena import Arena, Reader, Writer
from edge.host.isolation.wire import Failure

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds


class NotSentError(Exception):
    """The worker is gone, and never heard of the run."""


class NoAnswerError(Exception):
    """The worker was gone, or had to go, before it answered; ``is_late`` if it took too long."""

    def __init__(self, *, is_late: bool) -> None:
        super().__init__()
        self.is_late = is_late


class Lane:
    """Sockets to wake each other up, and an arena for each direction.

    The thread that runs waits for the worker's own: nobody stands between them.

    Args:
        control: Tells the worker of the lane.
        timeout_s: How long a run may take; 0 for as long as it takes.
    Raises:
        NotSentError: The worker is gone.
        UnavailableError: The system gives no more descriptors.
    """

    def __init__(self, control: socket.socket, timeout_s: float) -> None:
        with contextlib.ExitStack() as undo:
            try:
                here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError as error:
                raise UnavailableError(f"no way to a worker: {error.strerror}") from error
            undo.callback(here.close)
            with there:
                self._inputs = Arena.create()
                undo.callback(self._inputs.close)
                self._outputs = Arena.create()
                undo.callback(self._outputs.close)
                fds = [there.fileno(), self._inputs.fd, self._outputs.fd]
                try:
                    socket.send_fds(control, [b"+"], fds)
                except OSError as error:
                    raise NotSentError from error
            if timeout_s:
                # By the kernel, so that a run costs no system call more.
                interval = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
                here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
            undo.pop_all()
        self._socket = here
        self._writer = Writer(self._inputs)
        self._reader = Reader(self._outputs)
        self._message = memoryview(bytearray(wire.LIMIT_BYTES))

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run feeds that were checked; after any other error than an engine's it is of no use.

        Raises:
            EdgeError: What the worker raised, or the feeds can't be sent.
            NotSentError: The worker is gone.
            NoAnswerError: It is gone by now, or took too long.
        """
        request = self._writer.write(feeds)
        try:
            self._socket.send(request)
        except OSError as error:
            raise NotSentError from error
        message = self._message
        try:
            size = self._socket.recv_into(message)
        except BlockingIOError as error:
            raise NoAnswerError(is_late=True) from error
        except ConnectionError as error:
            raise NoAnswerError(is_late=False) from error
        if not size:
            raise NoAnswerError(is_late=False)
        return self._read(message[:size])

    def hang_up(self) -> None:
        """Let who waits for the worker wait no more; any thread may call it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give its memory back; nobody may use it afterwards."""
        self._socket.close()
        self._inputs.close()
        self._outputs.close()
        # An error's traceback may know this lane for long, but not the arrays in its memory.
        del self._writer, self._reader

    def _read(self, message: memoryview) -> dict[str, Array]:
        failure: Failure | None = None
        views: dict[str, Array] = {}
        try:
            reply = None if message == wire.SAME else wire.decode_reply(message)
            if isinstance(reply, Failure):
                failure = reply
            else:
                views = self._reader.read(reply)
        except (msgspec.DecodeError, TypeError, ValueError) as error:
            raise EngineError(f"the worker answers what nobody understands: {error}") from error
        if failure is not None:
            raise failure.error
        return {name: view if view.dtype.hasobject else view.copy() for name, view in views.items()}

"""The worker process: opens one variant, and runs what its host puts into shared memory."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.core import plugins
from edge.core.errors import EdgeError
from edge.host.isolation import wire
from edge.host.isolation.arena import Arena, Reader, Writer
from edge.host.isolation.wire import Failure, Opened

if TYPE_CHECKING:
    from edge.core.contracts import Session

log = logging.getLogger(__name__)

RECORD = b"\x1e"
"""Begins a line that is a log record: level, logger and text as JSON."""

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_OOM_MORE, _OOM_MOST = 300, 1000


def main(control_fd: int, host_pid: int) -> None:
    """Serve until the host says no more, or is gone."""
    _die_with(host_pid)
    control = socket.socket(fileno=control_fd)
    order = wire.decode_order(sys.stdin.buffer.read())
    root = logging.getLogger()
    root.setLevel(order.log_level)
    root.addHandler(_ToHost())
    try:
        backend = plugins.backend(order.engine)
        session = backend.open(order.variant, order.folder, order.profile, order.options)
    except Exception as error:
        if not isinstance(error, EdgeError):
            log.exception("a defect of the engine %s", order.engine)
        control.send(wire.encode(Failure.of(error)))
        return
    control.send(wire.encode(Opened(session.inputs, session.outputs, session.placement)))
    while True:
        try:
            message, fds, _, _ = socket.recv_fds(control, 1, 3)
        except ConnectionError:
            break
        if not message:
            break
        threading.Thread(target=_serve, args=(session, *fds), daemon=True).start()
    session.close()
    os._exit(0)  # what the engine's threads think of the interpreter's end is of no interest


def _die_with(host_pid: int) -> None:
    """See that no signal but the last ends this process before its host, and nothing after it."""
    # Ctrl-C, and systemd's SIGTERM to all of a service, are for the host, which ends what runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != host_pid:  # it was gone before that
        sys.exit(0)
    with contextlib.suppress(OSError, ValueError):
        score = int(_OOM_SCORE.read_text()) + _OOM_MORE
        _OOM_SCORE.write_text(str(min(score, _OOM_MOST)))


def _serve(session: Session, socket_fd: int, inputs_fd: int, outputs_fd: int) -> None:
    """Run what comes through one lane, one after the other."""
    lane = socket.socket(fileno=socket_fd)
    inputs, outputs = Arena(inputs_fd), Arena(outputs_fd)
    reader, writer = Reader(inputs), Writer(outputs)
    message = memoryview(bytearray(wire.LIMIT_BYTES))
    try:
        with contextlib.suppress(ConnectionError):
            while size := lane.recv_into(message):
                lane.send(_answer(session, reader, writer, message[:size]))
    except SystemExit as error:  # of the engine; it would end no more than this thread
        os._exit(error.code if isinstance(error.code, int) else 1)
    finally:
        lane.close()
        inputs.close()
        outputs.close()


def _answer(session: Session, reader: Reader, writer: Writer, message: memoryview) -> bytes:
    try:
        layout = None if message == wire.SAME else wire.decode_request(message)
        return writer.write(session.run(reader.read(layout)))
    except Exception as error:
        if not isinstance(error, EdgeError):
            log.exception("a defect of the engine")
        return wire.encode(Failure.of(error))


class _ToHost(logging.Handler):
    """Writes records as lines that the host takes apart again."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        line = RECORD + msgspec.json.encode((record.levelno, record.name, text)) + b"\n"
        with contextlib.suppress(OSError):
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line)

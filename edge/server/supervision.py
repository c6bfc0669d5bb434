"""What systemd is told of a service, and the socket that it keeps while the service restarts.

The protocol is sd_notify(3): a datagram of lines to ``$NOTIFY_SOCKET``. Elsewhere nothing happens.
"""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.host import ModelStatus

log = logging.getLogger(__name__)

HUNG_S = 300.0
"""An engine that has not ended an inference for so long is not expected to."""

_FIRST_FD = 3  # as sd_listen_fds(3) has it
_PINGS = 3  # in the time after which systemd takes us for dead


class Supervisor:
    """Speaks to whoever started this process, if they want to hear of it.

    Args:
        environ: What they left; it is taken out, so that no process of ours takes it for its own.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        own = str(os.getpid())
        self._address = environ.pop("NOTIFY_SOCKET", "")
        period_us = int(environ.pop("WATCHDOG_USEC", "0") or 0)
        is_watched = environ.pop("WATCHDOG_PID", own) == own
        self._ping_s = period_us / 1e6 / _PINGS if is_watched else 0.0
        count = int(environ.pop("LISTEN_FDS", "0") or 0)
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        is_ours = environ.pop("LISTEN_PID", "") == own
        given = zip(names[:count], range(_FIRST_FD, _FIRST_FD + count), strict=True)
        self._kept = dict(given) if is_ours and count else {}

    def kept(self, address: str) -> socket.socket | None:
        """The listening socket of the process before us, if it listens where we are to."""
        found: socket.socket | None = None
        for name, descriptor in self._kept.items():
            listening = socket.socket(fileno=descriptor)
            listening.set_inheritable(False)
            if name == _name_of(address):
                found = listening
            else:  # the address was changed
                listening.close()
                self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
        self._kept = {}
        return found

    def serving(self, address: str, listening: socket.socket) -> None:
        """We answer from now on; the socket is kept for the process after us."""
        self._tell("READY=1")
        self._tell(f"FDSTORE=1\nFDNAME={_name_of(address)}", listening.fileno())

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    async def watch(self, look: Callable[[], Iterable[ModelStatus]]) -> None:
        """Say that we live, for as long as the event loop runs this and no engine hangs."""
        engines = Engines()
        while self._ping_s:
            hung = engines.hung(look(), time.monotonic())
            if hung:
                log.error("%s has not ended an inference for %d s", hung, HUNG_S)
            else:
                self._tell("WATCHDOG=1")
            await asyncio.sleep(self._ping_s)

    def _tell(self, text: str, descriptor: int | None = None) -> None:
        if not self._address:
            return
        # A name that starts with @ is one of Linux's abstract ones.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        passed = [] if descriptor is None else [_passed(descriptor)]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendmsg([text.encode()], passed, 0, address)
        except OSError as error:
            log.warning("systemd can not be told %s: %s", text.partition("\n")[0], error)


class Engines:
    """Knows since when each model has been at one and the same inference."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[int, float]] = {}

    def hung(self, statuses: Iterable[ModelStatus], now_s: float) -> str:
        """A model that has been at it for ``HUNG_S``; empty if there is none."""
        before, self._since = self._since, {}
        for status in statuses:
            counts = status.statistics
            if counts is None or not counts.is_running:
                continue
            key = status.name, status.version
            ended = counts.success_count + counts.failure_count
            known = before.get(key)
            since_s = known[1] if known is not None and known[0] == ended else now_s
            self._since[key] = ended, since_s
            if now_s - since_s > HUNG_S:
                return f"{status.name} {status.version}"
        return ""


def _name_of(address: str) -> str:
    """systemd takes no colons in the names of what it keeps."""
    return "http-" + address.replace(":", ",")


def _passed(descriptor: int) -> tuple[int, int, array.array[int]]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])

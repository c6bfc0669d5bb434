"""A running server: a runtime behind an HTTP listener."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from edge.server.application import Application
from edge.server.http.limits import Limits
from edge.server.http.listener import Listener
from edge.server.kserve.codec import HEADER_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.host import Runtime
    from edge.settings import Serve
    from edge.telemetry.sender import SenderStatus

log = logging.getLogger(__name__)


class Service:
    """Serves a runtime's models; not ready, but reachable, until ``load`` has loaded them.

    Args:
        broker: Tells the state of the connection to an MQTT broker, and the reason for it.
    """

    def __init__(
        self, runtime: Runtime, settings: Serve, broker: Callable[[], SenderStatus] | None = None
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._listener = Listener(
            Limits(
                max_body_bytes=settings.max_body_bytes,
                align_after=HEADER_LENGTH.lower().encode(),
            )
        )
        self._application = Application(
            runtime,
            self._listener.traffic,
            max_body_bytes=settings.max_body_bytes,
            may_control=settings.control,
            broker=broker,
        )

    async def start(self, listening: socket.socket) -> None:
        """Answer on a bound socket, which the service closes in the end."""
        await self._listener.start(listening, self._application)

    async def load(self) -> None:
        """Load all models on a thread; one that fails leaves the others alone."""
        # Not asyncio's own executor: at the end it would wait for an engine that takes its time.
        thread = ThreadPoolExecutor(1, thread_name_prefix="edge-load")
        await asyncio.get_running_loop().run_in_executor(thread, self._runtime.load_all)
        thread.shutdown(wait=False)
        gc.collect()
        gc.freeze()  # what stays for good need not be looked at again during requests

    async def drain(self) -> int:
        """Refuse what is new, finish what is in flight; says how many could not finish in time."""
        unfinished = await self._listener.drain(self._settings.drain_s)
        self._application.close()
        if unfinished:
            log.warning("%d requests did not end within %s s", unfinished, self._settings.drain_s)
        return unfinished

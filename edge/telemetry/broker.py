"""An MQTT broker inside this process, for demonstrations and tests: nothing is stored."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from functools import partial
from typing import Any

from edge.core.errors import UnavailableError
from edge.core.lazy import require

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_LISTENER = "default"
_CONFIGURATION = {
    "listeners": {_LISTENER: {"type": "external"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}
_EXTRA = "dev"
_START_S = 60.0  # milliseconds as a rule: for a machine that is busy otherwise
_STOP_S = 60.0


class EmbeddedBroker:
    """A broker on the loopback interface, without authentication, until ``close``.

    ``port`` 0 takes a free one; ``url`` says where it listens.

    Raises:
        MissingDependencyError: amqtt is not installed.
        UnavailableError: The port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._module = _import_broker()
        self._port = port
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._thread = threading.Thread(target=self._run, name="edge-broker", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_S) or self._error:
            raise UnavailableError(
                f"the embedded broker does not start on port {port}: {self._error}",
                hint="port 0 takes one that is free",
            ) from self._error

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"mqtt://{_HOST}:{self._port}"

    def close(self) -> None:
        """Drop all clients and what was retained; a second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_STOP_S)

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            self._error = error
            self._ready.set()
        finally:
            self._end_leftovers()
            self._loop.close()

    async def _serve(self) -> None:
        broker = self._module.Broker(_CONFIGURATION)
        await broker.start()
        # amqtt would listen itself, but it does not say on which port, nor hang up on its clients.
        server = await asyncio.start_server(partial(self._accept, broker), _HOST, self._port)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        for listener in server.sockets:
            self._loop.remove_reader(listener.fileno())
        await asyncio.sleep(0)  # asyncio leaks a connection that was accepted as its server closed
        server.close()
        for writer in self._clients.values():
            writer.transport.abort()
        await broker.shutdown()

    def _accept(
        self, broker: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._stop.is_set():
            writer.transport.abort()
            return
        adapters = require("amqtt.adapters", extra=_EXTRA)
        task = self._loop.create_task(
            broker.external_connected(
                adapters.StreamReaderAdapter(reader),
                adapters.StreamWriterAdapter(writer),
                _LISTENER,
            )
        )
        self._clients[task] = writer
        task.add_done_callback(self._hang_up)

    def _hang_up(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task).close()
        if not task.cancelled() and task.exception():
            log.debug("a client was dropped: %s", task.exception())

    def _end_leftovers(self) -> None:
        """amqtt leaves tasks behind, of which asyncio would complain when they are collected."""
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())


def _import_broker() -> Any:
    with warnings.catch_warnings():  # of its dependencies, which are no concern of our users
        warnings.simplefilter("ignore")
        module = require("amqtt.broker", extra=_EXTRA)
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return module

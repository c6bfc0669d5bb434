"""An MQTT broker inside this process, for demonstrations and tests: nothing is stored."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from typing import Any

from edge.core.errors import UnavailableError
from edge.core.lazy import require

_START_S = 20.0  # importing amqtt takes a second or two on a small machine
_STOP_S = 5.0


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
        return f"mqtt://127.0.0.1:{self._port}"

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
            self._cancel_leftovers()
            self._loop.close()

    async def _serve(self) -> None:
        broker = self._module.Broker(_configuration(self._port))
        await broker.start()
        # amqtt does not say which port it got, and this project does not choose one for it: between
        # finding a free port and binding it, another process may take it.
        server = broker._servers["default"].instance
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        await broker.shutdown()

    def _cancel_leftovers(self) -> None:
        """amqtt leaves tasks behind, of which asyncio would complain when they are collected."""
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def _import_broker() -> Any:
    with warnings.catch_warnings():  # of its dependencies, which are no concern of our users
        warnings.simplefilter("ignore")
        module = require("amqtt.broker", extra="dev")
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return module


def _configuration(port: int) -> dict[str, Any]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }

"""From other threads back to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def when_done(future: Future[Any], then: Callable[[Future[Any]], object]) -> None:
    """Call ``then`` with the future on the running event loop once it is done.

    Half the price of a coroutine that awaits it: no task and no second future.
    """
    loop = asyncio.get_running_loop()

    def wake(done: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(then, done)

    future.add_done_callback(wake)

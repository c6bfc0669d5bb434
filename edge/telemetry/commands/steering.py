"""Lets an operator steer a runtime through the connection that its telemetry has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from edge.telemetry.commands.convergence import Convergence
from edge.telemetry.commands.dispatcher import Dispatcher
from edge.telemetry.commands.journal import Journal
from edge.telemetry.commands.verb import Surroundings
from edge.telemetry.commands.verbs import verbs

if TYPE_CHECKING:
    from edge.host import Runtime
    from edge.settings import Settings
    from edge.telemetry.sender import Sender
    from edge.telemetry.topics import Topics


class Steering:
    """Takes commands between ``start`` and ``close``."""

    def __init__(self, dispatcher: Dispatcher, convergence: Convergence | None) -> None:
        self._dispatcher = dispatcher
        self._convergence = convergence

    def start(self) -> None:
        self._dispatcher.start()
        if self._convergence is not None:
            self._convergence.start()

    def close(self, timeout_s: float) -> None:
        """Begin nothing more; what runs has ``timeout_s`` to end."""
        deadline_s = time.monotonic() + timeout_s
        self._dispatcher.close(timeout_s)
        if self._convergence is not None:
            self._convergence.close(max(0.0, deadline_s - time.monotonic()))


def steer(
    runtime: Runtime, settings: Settings, sender: Sender, topics: Topics, folder: Path | None
) -> Steering | None:
    """Listen to commands, before ``sender`` starts; None where no right is on.

    Args:
        folder: Where what was begun survives a restart: the outbox's; None for memory only.
    """
    rights = settings.commands
    if not (rights.is_any_verb_on or rights.desired):
        return None
    if not sender.backlog.status().is_durable:  # another process has the folder, or nobody can
        folder = None
    journal = Journal(_within(folder, "commands"), rights.remember, rights.remember_days)
    around = Surroundings(runtime, settings, topics, sender)
    dispatcher = Dispatcher(around, verbs(), journal)
    if rights.is_any_verb_on:
        dispatcher.listen()
    convergence = (
        Convergence(around, dispatcher, _within(folder, "desired")) if rights.desired else None
    )
    if convergence is not None:
        convergence.listen()
    return Steering(dispatcher, convergence)


def _within(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name

"""Lets an operator steer a runtime through the connection that its telemetry has."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edge.telemetry.commands.dispatcher import Dispatcher
from edge.telemetry.commands.finding import verbs
from edge.telemetry.commands.journal import Journal
from edge.telemetry.commands.verb import Surroundings

if TYPE_CHECKING:
    from edge.host import Runtime
    from edge.settings import Settings
    from edge.telemetry.sender import Sender
    from edge.telemetry.topics import Topics

log = logging.getLogger(__name__)

_FOLDER = "commands"


class Steering:
    """Takes commands between ``start`` and ``close``."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def start(self) -> None:
        self._dispatcher.start()

    def close(self, timeout_s: float) -> None:
        """Begin nothing more; what runs has ``timeout_s`` to end."""
        self._dispatcher.close(timeout_s)


def steer(
    runtime: Runtime, settings: Settings, sender: Sender, topics: Topics, folder: Path | None
) -> Steering | None:
    """Listen to commands, before ``sender`` starts; None where no right is on.

    Args:
        folder: Where what was begun survives a restart: the outbox's; None for memory only.
    """
    rights = settings.commands
    if not rights.is_any_verb_on:
        return None
    kept = folder / _FOLDER if folder is not None and sender.backlog.status().is_durable else None
    journal = Journal(kept, rights.remember, rights.remember_days)
    dispatcher = Dispatcher(Surroundings(runtime, settings, topics, sender), verbs(), journal)
    dispatcher.listen()
    return Steering(dispatcher)

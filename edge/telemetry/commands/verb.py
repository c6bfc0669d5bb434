"""What a verb is: one file in ``verbs/`` that ends in ``VERB = …``."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from edge.telemetry.commands.order import RefusedError

if TYPE_CHECKING:
    from edge.host import Runtime
    from edge.settings import Settings
    from edge.telemetry.sender import Sender
    from edge.telemetry.topics import Topics

Arguments = TypeVar("Arguments", bound=msgspec.Struct)
Result = dict[str, Any]


class Interrupted(BaseException):
    """This process ends: the command stays as it is in the journal, for the next one."""


class WithdrawnError(RefusedError):
    """The operator cleared the command's topic."""

    def __init__(self) -> None:
        super().__init__("it was withdrawn: its topic was cleared", kind="withdrawn")


class Surroundings(msgspec.Struct, frozen=True):
    """What all verbs work with. ``sender`` is for what does not fit into a result."""

    runtime: Runtime
    settings: Settings
    topics: Topics
    sender: Sender


class Context(msgspec.Struct, frozen=True):
    """What one command works with.

    Attributes:
        is_resumed: Whether it began before a restart.
        notes: What ``Progress.note`` has kept so far.
        withdrawn: Set when the operator has cleared the topic: who can stop, should.
        closing: Set when this process ends: who can go on after a restart raises ``Interrupted``.
    """

    around: Surroundings
    id: str
    is_resumed: bool
    notes: dict[str, Any]
    withdrawn: threading.Event
    closing: threading.Event

    @property
    def runtime(self) -> Runtime:
        return self.around.runtime

    @property
    def settings(self) -> Settings:
        return self.around.settings

    @property
    def topics(self) -> Topics:
        return self.around.topics

    @property
    def sender(self) -> Sender:
        return self.around.sender

    def check(self) -> None:
        """Called between steps by who can stop there.

        Raises:
            WithdrawnError: The operator does not want it any more.
            Interrupted: This process ends.
        """
        if self.withdrawn.is_set():
            raise WithdrawnError
        if self.closing.is_set():
            raise Interrupted


class Progress:
    """Tells how far a command is. Any thread may call it, as often as it likes."""

    def __init__(
        self, tell: Callable[[dict[str, Any]], None], keep: Callable[[dict[str, Any]], None]
    ) -> None:
        self._tell = tell
        self._keep = keep

    def __call__(self, share: float | None = None, **fields: Any) -> None:
        """Answer ``executing``, at most once a second, with the newest of what is told.

        Args:
            share: 0 to 1; None if nobody knows.
            fields: More to tell, at the top of the answer.
        """
        known = {} if share is None else {"progress": round(min(1.0, max(0.0, share)), 3)}
        self._tell({**known, **fields})

    def note(self, **notes: Any) -> None:
        """Keep what a run after a restart has to know; it is on the disk when this returns.

        Raises:
            OSError: It can't be written.
        """
        self._keep(notes)


class Verb(ABC, Generic[Arguments]):
    """Something that an operator may have done. One instance serves all commands.

    ``arguments`` is the struct of what a command says, with ``forbid_unknown_fields``; the right
    in ``[commands]`` has the name of the file. Where ``is_resumed``, ``run`` is called again after
    a restart amid it.
    """

    arguments: type[Arguments]
    is_resumed: bool = False

    def lane(self, arguments: Arguments) -> str:
        """Commands of one lane run one after the other; by default those for one model do."""
        return str(getattr(arguments, "model", ""))

    @abstractmethod
    def run(self, context: Context, arguments: Arguments, progress: Progress) -> Result:
        """Do it, on a thread that may wait, and say what came of it.

        Raises:
            EdgeError: It failed, which its message and hint tell the operator.
        """

    def proof(self, context: Context, arguments: Arguments) -> Result | None:
        """After a restart amid it: the result if it can be seen that all was done, else None."""
        return None

    def receive(self, id_: str, path: tuple[str, ...], payload: bytes) -> None:
        """Take what came below a command's topic, on the thread that talks to the broker: keep it
        for ``run``, within bounds, and return at once. Nobody has looked at it.
        """

"""Asks one family of sensors after the other, and leaves behind one that does not answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_S = 2.0
"""A driver that loads its GPU for this takes about that long; all else answers in milliseconds."""


class Rounds(Generic[T]):
    """Waits for nobody forever: a file, an ioctl or a library that hangs holds its own thread only.

    A thread for each round costs about 0.1 ms; what is left behind holds one until it comes back.
    """

    def __init__(self, longest_s: float = _LONGEST_S) -> None:
        self._longest_s = longest_s
        self._behind: dict[str, _Round[T]] = {}

    def ask(self, calls: dict[str, Callable[[], T]]) -> dict[str, T]:
        """The answers of all that answer in time, by name; one that still hangs is not asked."""
        self._behind = {name: one for name, one in self._behind.items() if self._hangs(name, one)}
        answers: dict[str, T] = {}
        todo = {name: call for name, call in calls.items() if name not in self._behind}
        while todo:
            one = _Round(todo)
            one.wait(self._longest_s)
            at = one.leave(answers)
            if at is not None:
                log.warning("the %s sensors do not answer, and are left out until they do", at)
                self._behind[at] = one
            todo = {name: todo[name] for name in todo if name not in answers and name != at}
        return answers

    def _hangs(self, name: str, one: _Round[T]) -> bool:
        if not one.is_alive():
            log.info("the %s sensors answer again", name)
        return one.is_alive()


class _Round(threading.Thread, Generic[T]):
    def __init__(self, calls: dict[str, Callable[[], T]]) -> None:
        super().__init__(name="edge-sensors", daemon=True)
        self._calls = calls
        self._answers: dict[str, T] = {}
        self._at: str | None = None
        self._is_left = False
        self._lock = threading.Lock()

    def run(self) -> None:
        for name, call in self._calls.items():
            with self._lock:
                if self._is_left:
                    return
                self._at = name
            answer = call()
            with self._lock:
                if self._is_left:
                    return
                self._answers[name] = answer

    def wait(self, longest_s: float) -> None:
        try:
            self.start()
        except RuntimeError:  # there are no more threads to be had: then here, and without a limit
            self.run()
        else:
            self.join(longest_s)

    def leave(self, answers: dict[str, T]) -> str | None:
        """Take what there is; and the name of whom it is at, if anybody."""
        with self._lock:
            self._is_left = True
            answers |= self._answers
            return None if self._at in self._answers else self._at

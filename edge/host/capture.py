"""One frame, with what the model made of it, for who has asked: nothing is held back before."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from edge.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.core.tensor import Array, Feeds
    from edge.host.seat import Run, Sitting


class Frame(msgspec.Struct, frozen=True):
    """Copies of what was fed to the engine, and what it answered: one row where rows are frames."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


class Capture:
    """Waits for the next run of a session; ``future`` gets its frame.

    While none is asked for, it costs a run nothing at all: it takes the place of the sitting's
    ``run``, and gives it back at once.

    Args:
        most_bytes: Of a larger frame nothing is copied.
        forget: Called once it waits no more.
    """

    def __init__(self, most_bytes: int, forget: Callable[[Capture], None]) -> None:
        self.future: Future[Frame] = Future()
        self._most_bytes = most_bytes
        self._forget = forget
        self._attached: list[tuple[Sitting, Run]] = []
        self._is_over = False
        self._lock = threading.Lock()

    def attach(self, sitting: Sitting) -> None:
        run = sitting.run

        def run_and_see(feeds: Feeds) -> dict[str, Array]:
            outputs = run(feeds)
            if self.detach():
                self._forget(self)
                self._see(sitting, feeds, outputs)
            return outputs

        with self._lock:
            if not self._is_over:
                self._attached.append((sitting, run))
                sitting.run = run_and_see

    def cancel(self) -> None:
        """Wait no more."""
        if self.detach():
            self._forget(self)

    def detach(self) -> bool:
        """Give all that it was attached to back; whether this was the first to come."""
        with self._lock:
            if self._is_over:
                return False
            self._is_over = True
            for sitting, run in self._attached:
                sitting.run = run
            self._attached.clear()
            return True

    def _see(self, sitting: Sitting, feeds: Feeds, outputs: dict[str, Array]) -> None:
        """Called within a request, which must not suffer."""
        try:
            is_row = _has_rows(sitting)
            size_bytes = 0
            copies: list[dict[str, Array]] = []
            for arrays in (feeds, outputs):
                frame = {name: array[:1] if is_row else array for name, array in arrays.items()}
                size_bytes += sum(array.nbytes for array in frame.values())
                copies.append(frame)
            if size_bytes > self._most_bytes:
                raise InputError(f"a frame has {size_bytes} bytes, allowed are {self._most_bytes}")
            inputs, answers = ({name: a.copy() for name, a in frame.items()} for frame in copies)
            self.future.set_result(Frame(inputs, answers))
        except BaseException as error:
            self.future.set_exception(error)


def _has_rows(sitting: Sitting) -> bool:
    """Whether the first axis counts frames: it is free, or requests are put together by it."""
    specs = (*sitting.opened.session.inputs, *sitting.opened.session.outputs)
    is_free = all(spec.shape and isinstance(spec.shape[0], str) for spec in specs)
    return sitting.plan.is_on or is_free

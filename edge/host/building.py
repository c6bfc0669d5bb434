"""Makes a model's engine on a thread of its own, while something else may serve."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from edge.core.errors import EdgeError, EngineError
from edge.host.goldens import prove
from edge.host.opening import REFUSALS

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.host.opening import Opened, Opener

log = logging.getLogger(__name__)

# Two builds at once would not fit into the memory of a small board, nor end any sooner.
_TURN = threading.Lock()


class BuildProgress(msgspec.Struct, frozen=True):
    """An engine in the making: for which variant, in which phase, and the share that is done."""

    variant: str
    phase: str = "waiting"
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.variant} is being built: {self.share * 100:.0f} % ({self.phase})"


class Build:
    """Builds, opens and proves what ``opener`` has to build, and hands it over.

    The thread is a daemon: an engine's builder can not be stopped, and must not keep a program
    from ending. ``done`` is set when it has ended or nobody waits for it any more.

    Args:
        reopen: Gives a bundle of the build's own, as the other may be closed meanwhile.
        exchange: What to be in while what was built is opened, and handed over.
        succeed: Takes what was opened, and the bundle.
        fail: Takes why nothing was.
    """

    def __init__(
        self,
        opener: Opener,
        reopen: Callable[[], Bundle],
        exchange: Callable[[], AbstractContextManager[object]],
        succeed: Callable[[Opened, Bundle], None],
        fail: Callable[[EdgeError], None],
    ) -> None:
        self.progress = BuildProgress(opener.to_build[0].variant.id)
        self.done = threading.Event()
        self._opener = opener
        self._reopen = reopen
        self._exchange = exchange
        self._succeed = succeed
        self._fail = fail
        self._is_unwanted = False
        self._thread = threading.Thread(target=self._run, name="edge-build", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def abandon(self) -> None:
        """Begin nothing more, and let nobody wait."""
        self._is_unwanted = True
        self.done.set()

    def _run(self) -> None:
        try:
            with _TURN:
                if not self._is_unwanted:
                    self._build()
        except EdgeError as error:
            self._fail(error)
        except Exception as error:
            log.exception("building %s failed", self.progress.variant)
            self._fail(EngineError(f"building {self.progress.variant} failed: {error!r}"))
        finally:
            self.done.set()

    def _build(self) -> None:
        bundle = self._reopen()
        log.info("%s: building %s for this machine", bundle.manifest.name, self.progress.variant)
        try:
            is_taken = self._hand_over_first_that_runs(bundle)
        except BaseException:
            bundle.close()
            raise
        if not is_taken:
            bundle.close()

    def _hand_over_first_that_runs(self, bundle: Bundle) -> bool:
        """False if nobody wants one any more."""
        opener, start_s = self._opener, time.monotonic()
        for candidate in opener.to_build:
            if self._is_unwanted:
                return False
            name = candidate.variant.id
            self._follow(name, "starting", 0.0)
            try:
                made = opener.starter.build(bundle, candidate, partial(self._follow, name))
            except REFUSALS as error:
                opener.note(candidate, error)
                continue
            if self._is_unwanted:
                return False
            self._follow(name, "opening", 0.0 if made is None else 1.0)
            with self._exchange():
                opened = opener.open_proven(bundle, candidate, _prove)
                if opened is not None:
                    seconds = time.monotonic() - start_s
                    log.info("%s: %s is built, %.1f s", bundle.manifest.name, name, seconds)
                    self._succeed(opened, bundle)
                    return True
        raise opener.error_of(opener.to_build[0])

    def _follow(self, variant: str, phase: str, share: float) -> None:
        self.progress = BuildProgress(variant, phase, min(1.0, max(0.0, share)))


def _prove(bundle: Bundle, opened: Opened) -> None:
    prove(bundle, opened.variant, opened.session)

"""What time it is at the least: boards without a battery come up in 1970."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import edge
from edge.core.durable import sync_folder
from edge.telemetry import clock

log = logging.getLogger(__name__)

SAVE_EVERY_S = 3600.0
_PROGRAM = Path(edge.__file__)


class ClockFloor:
    """The newest of when this program was made and when the clock was last known to be right.

    Certificates can't be verified by a clock that is behind: all that are valid seem to be of the
    future, and those that have expired may seem valid. A clock that the kernel calls synchronized
    is believed, whatever it was before.

    Args:
        file: Its time of modification is the time that was known; None keeps none.
    """

    def __init__(
        self,
        file: Path | None,
        *,
        now_s: Callable[[], float] = time.time,
        is_synchronized: Callable[[], bool] = clock.is_synchronized,
    ) -> None:
        self._file = file
        self._now_s = now_s
        self._is_synchronized = is_synchronized
        self._save_at_s = 0.0

    def objection(self) -> str:
        """Why no certificate can be verified now; empty when all is well."""
        now_s, floor_s = self._now_s(), max(_modified_s(_PROGRAM), _modified_s(self._file))
        if now_s >= floor_s or self._is_synchronized():
            return ""
        return (
            f"the clock says {_date(now_s)}, and it was {_date(floor_s)} before: certificates"
            " can not be verified until it is set"
        )

    def keep(self) -> None:
        """Save the time now and then, if it is known; a disk that fails is left alone."""
        if self._file is None or time.monotonic() < self._save_at_s or not self._is_synchronized():
            return
        self._save_at_s = time.monotonic() + SAVE_EVERY_S
        try:
            self._save(self._file)
        except OSError as error:
            log.debug("the time can not be saved in %s: %s", self._file, error)

    def _save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.utime(descriptor, (self._now_s(), self._now_s()))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(file.parent)


def _modified_s(path: Path | None) -> float:
    try:
        return path.stat().st_mtime if path else 0.0
    except OSError:
        return 0.0


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))

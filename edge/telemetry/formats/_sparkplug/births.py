"""The number of a session, ``bdSeq``: one higher for each, also after a restart."""

from __future__ import annotations

import logging
from pathlib import Path

from edge.core.durable import replacing
from edge.telemetry.formats._sparkplug.session import NUMBERS

log = logging.getLogger(__name__)


class Births:
    """Counts sessions in a file, which is written before its number is used.

    Args:
        path: None, or one that can't be used, counts from 0 in each run.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._number = -1 if path is None else _read(path)

    def next(self) -> int:
        self._number = (self._number + 1) % NUMBERS
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self._path) as stream:
                    stream.write(str(self._number).encode())
            except OSError as error:
                log.warning("the number of Sparkplug sessions can not be kept: %s", error)
                self._path = None
        return self._number


def _read(path: Path) -> int:
    try:
        number = int(path.read_bytes())
    except FileNotFoundError:
        return -1
    except (OSError, ValueError) as error:
        log.warning("the number of Sparkplug sessions begins anew: %s", error)
        return -1
    return number if 0 <= number < NUMBERS else -1

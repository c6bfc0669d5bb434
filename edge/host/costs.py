"""What a model takes of this machine's memory: measured as it is loaded, and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.core.cache import default_cache
from edge.core.durable import replacing
from edge.core.process import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge.core.contracts import Session

log = logging.getLogger(__name__)

ESTIMATED_FACTOR = 2.0
ESTIMATED_BYTES = 8 * 1024 * 1024
"""Of a model that was never loaded: its files twice, as engines lay weights out anew, and some."""

_SELF = Path("/proc/self")
_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs, since Linux 4.0


class Cost(msgspec.Struct, frozen=True):
    """Bytes that a loaded model holds, and held at most while it was loaded."""

    resident_bytes: int
    peak_bytes: int
    is_measured: bool = False


# Made at import, by one thread: msgspec crashes where two learn a type at once.
_decode = msgspec.json.Decoder(Cost).decode


def estimate(files_bytes: int) -> Cost:
    """A guess for a model that was never loaded on this machine."""
    size = int(ESTIMATED_FACTOR * files_bytes) + ESTIMATED_BYTES
    return Cost(size, size)


def key_of(*parts: str) -> str:
    """What a measurement is good for: bundle, variant, engine with version, and its options."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def recall(key: str) -> Cost | None:
    """What was measured before, if it was, on this machine."""
    try:
        return _decode(_path(key).read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def remember(key: str, cost: Cost) -> None:
    """Keep a measurement; a machine that can't be written to measures again."""
    path = _path(key)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as stream:
            stream.write(msgspec.json.encode(cost))
    except OSError as error:
        log.debug("what a model costs can not be kept in %s: %s", path, error)


class Gauge:
    """Measures what a load takes, from when it is made until ``read``.

    It sees the whole process. What else was loaded or closed meanwhile spoils it, which it
    notices; what other models allocate as they run counts in, which it does not.
    """

    _lock = threading.Lock()
    _events = 0
    _running = 0

    def __init__(self) -> None:
        with Gauge._lock:
            self._is_alone = Gauge._running == 0
            Gauge._running += 1
            Gauge._events += 1
            self._event = Gauge._events
        self._is_over = False
        # The kernel's own high-water mark sees peaks that no thread of ours would be in time for.
        with contextlib.suppress(OSError):
            (_SELF / "clear_refs").write_text(_RESET_PEAK)
        self._before_bytes = resident_bytes()

    def read(self, session: Session) -> Cost | None:
        """What it took, and what ``session`` holds elsewhere; None if that can't be told."""
        resident = resident_bytes() - self._before_bytes
        peak = _high_water_bytes() - self._before_bytes
        self.stop()
        with Gauge._lock:
            is_alone = self._is_alone and Gauge._events == self._event
        if not is_alone or not self._before_bytes:
            return None
        resident = max(0, resident) + session.outside_bytes()
        peak = max(0, peak) + session.outside_peak_bytes()
        return Cost(resident, max(resident, peak), is_measured=True)

    def stop(self) -> None:
        if not self._is_over:
            self._is_over = True
            with Gauge._lock:
                Gauge._running -= 1

    @staticmethod
    def disturb() -> None:
        """Say that memory was given back, which spoils what is measured now."""
        with Gauge._lock:
            Gauge._events += 1


def give_back() -> None:
    """Let the C library return what was freed to the system: it keeps it otherwise, for itself."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _high_water_bytes() -> int:
    try:
        lines: Iterable[str] = (_SELF / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _path(key: str) -> Path:
    return default_cache() / "costs" / f"{key}.json"

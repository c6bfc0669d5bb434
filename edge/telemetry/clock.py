"""The system clock, and whether it can be believed: boards without a battery come up in 1970."""

from __future__ import annotations

import ctypes
import time
from functools import cache
from typing import Any

_TIMEX_BYTES = 256  # struct timex has 208 bytes on 64-bit Linux, fewer elsewhere
_TIME_ERROR = 5  # what adjtimex(2) returns while nothing disciplines the clock


def now_ms() -> int:
    """Unix time."""
    return time.time_ns() // 1_000_000


def is_synchronized() -> bool:
    """Whether the kernel says that NTP, PTP or the like keeps the clock right."""
    adjtimex = _adjtimex()
    if adjtimex is None:
        return False
    # All zeros asks and changes nothing, which needs no privilege.
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return 0 <= state != _TIME_ERROR


@cache
def _adjtimex() -> Any:
    try:
        return ctypes.CDLL(None).adjtimex
    except (AttributeError, OSError, TypeError):  # not Linux
        return None

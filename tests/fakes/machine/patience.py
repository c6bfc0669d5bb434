"""How long a test waits for what has to come."""

from __future__ import annotations

import time
from collections.abc import Callable

LONG_S = 120.0
"""Beyond what anything takes on a machine that is ten times slower: who waits so long, hangs."""


def wait_until(is_so: Callable[[], bool], what: str = "it did not happen") -> None:
    """Returns when a condition holds; looked at often, as most come at once."""
    deadline_s = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {LONG_S:g} s in vain: {what}"
        time.sleep(0.01)

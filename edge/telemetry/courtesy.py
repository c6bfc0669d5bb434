"""Lets inferences have the interpreter while telemetry has much to do."""

from __future__ import annotations

import time

_REST_S = 0.001


def give_way() -> None:
    """To be called between two parts of what takes long.

    An inference whose engine is done needs the interpreter to go on: it then waits for one part
    instead of all of them. ``sleep(0)`` would not do, as it has the interpreter back before the
    other thread is awake.
    """
    time.sleep(_REST_S)

"""What tests find around them, the same at a terminal, in the background and in CI."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from edge.core.lazy import REPORTERS, SILENCE

_TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")
_SERVICE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
_OURS = ("EDGE_TENSORRT_BINDINGS", "EDGE_PYCUDA_SOURCE")  # where tests find what they compare with


def settle() -> None:
    """Take away what would reach the processes that tests start."""
    for name in list(os.environ):
        is_setting = name.startswith("EDGE_") and name not in _OURS
        if is_setting or name in (*_TERMINAL, *_SERVICE):
            del os.environ[name]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))
    # Tests import SDKs without asking us first. OpenVINO's reporter forks amid other threads, which
    # once waited for each other for ever, of logging and of imports.
    missing: Any = None
    for reporter in REPORTERS.values():
        sys.modules.setdefault(reporter, missing)
    for name in SILENCE.values():
        os.environ.setdefault(name, "1")
    # A shell starts what it puts into the background deaf to Ctrl-C, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)

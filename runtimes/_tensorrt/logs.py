"""What TensorRT says goes to logging; what it complains of is kept for the error."""

from __future__ import annotations

import logging
import re
from typing import Any

log = logging.getLogger("runtimes.tensorrt")

_OUT_OF_MEMORY = re.compile(r"out of memory|outofmemory|insufficient memory|bad_alloc", re.I)


def listener(trt: Any) -> Any:
    """An ``ILogger`` with the list ``complaints`` and the property ``is_out_of_memory``."""
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.complaints: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.complaints.append(msg)
            log.log(level, "TensorRT: %s", msg)

        @property
        def is_out_of_memory(self) -> bool:
            return any(_OUT_OF_MEMORY.search(each) for each in self.complaints)

        def said(self) -> str:
            return "; ".join(dict.fromkeys(self.complaints)) or "it gives no reason"

    return Listener()

"""Where this machine keeps what it can make again, and what it can not."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/edge``, by default ``~/.cache/edge``: what can be made again."""
    return _base("XDG_CACHE_HOME", ".cache") / "edge"


def default_state() -> Path:
    """``$XDG_STATE_HOME/edge``, by default ``~/.local/state/edge``: what was learned here."""
    return _base("XDG_STATE_HOME", ".local/state") / "edge"


def _base(variable: str, otherwise: str) -> Path:
    home = os.environ.get(variable, "")
    # The specification says to ignore a relative path.
    return Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~"), otherwise)

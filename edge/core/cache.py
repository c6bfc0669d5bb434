"""Where this machine keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/edge``, by default ``~/.cache/edge``."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore a relative path.
    base = Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~"), ".cache")
    return base / "edge"

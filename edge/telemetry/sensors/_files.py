"""Reads small kernel files, any of which may vanish, refuse or hold nonsense."""

from __future__ import annotations

import os
from pathlib import Path

_MOST_BYTES = 16 * 1024


def read_text(path: Path) -> str | None:
    """What the file says, stripped; None when it is absent, refuses, or has nothing to say now."""
    try:
        # A sensor of a gated block answers EAGAIN; nothing here may wait for it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(descriptor, _MOST_BYTES).decode("ascii", "replace").strip("\0 \n")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_integer(path: Path) -> int | None:
    """The file's whole number; None as with ``read_text``, or when it holds something else."""
    return to_integer(read_text(path))


def to_integer(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def entries(folder: Path, prefix: str) -> list[Path]:
    """What in ``folder`` starts with ``prefix``, sorted; nothing when there is no folder."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.startswith(prefix))
    except OSError:
        return []

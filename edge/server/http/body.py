"""Memory for the bodies of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edge.core.tensor import Array

_CACHE_LINE_BYTES = 64
_MALLOC_ALIGNMENT_BYTES = 16
_LARGE_BYTES = 16 * 1024


def allocate(size: int, lead: int) -> Array:
    """Uninitialised bytes; the one at ``lead`` is aligned, to a cache line if they are many.

    No pool: after the first large block is freed, glibc keeps blocks of that size on its heap.
    """
    if size < _LARGE_BYTES:
        offset = -lead % _MALLOC_ALIGNMENT_BYTES
        return np.empty(offset + size, np.uint8)[offset:]
    memory = np.empty(size + _CACHE_LINE_BYTES, np.uint8)
    address = int(memory.__array_interface__["data"][0])
    offset = -(address + lead) % _CACHE_LINE_BYTES
    return memory[offset : offset + size]

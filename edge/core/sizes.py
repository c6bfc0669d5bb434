"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from edge.core.errors import InputError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_bytes(size: int | str) -> int:
    """``"2GiB"``, ``"1.5 GB"``, ``"800M"`` (of 1024 each) or a number, as bytes.

    Raises:
        InputError: It is none of those, or negative.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size).lower())
    if match is None or match[2] not in _UNITS:
        raise InputError(f"{size!r} is no size", hint='write a number of bytes, or as in "2GiB"')
    return int(float(match[1]) * _UNITS[match[2]])

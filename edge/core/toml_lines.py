"""On which line of a TOML document each of its statements stands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

Path = tuple[str, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BRACKETS = re.compile(r"\[\[?")
_PART = re.compile(
    r"""[ \t]*(?:(?P<basic>"(?:[^"\\\n]|\\.)*")|'(?P<literal>[^'\n]*)'|(?P<bare>[\w-]+))[ \t]*"""
)
_PIECE = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\''''
    r"""|\#[^\n]*|[\[{]|[\]}]|\n|[^"'\#\[\]{}\n]+""",
    re.DOTALL,
)


def statements(text: str) -> Iterator[tuple[int, Path]]:
    """The line of each table's head and of each ``key = value``, with its path in the document.

    Tables of an array bear their number in the path. What an inline table or an array holds
    belongs to the statement that it is part of.

    Args:
        text: A document that is valid; for others the lines are not right.
    """
    counts: dict[Path, int] = {}
    table: Path = ()
    at = _end(_BLANK, text, 0)
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        brackets = _BRACKETS.match(text, at)
        if brackets is None:
            parts, at = _key(text, at)
            yield line, (*table, *parts)
            at = _value_end(text, at + 1)
        else:
            parts, at = _key(text, brackets.end())
            table = _resolved(parts[:-1], counts) + parts[-1:]
            if len(brackets[0]) == 2:
                counts[table] = counts.get(table, -1) + 1
                table = (*table, str(counts[table]))
            yield line, table
            at += len(brackets[0])
        at = _end(_BLANK, text, at)


def _resolved(parts: Path, counts: dict[Path, int]) -> Path:
    """A table within an array of tables belongs to the last one of them."""
    path: Path = ()
    for part in parts:
        path = (*path, part)
        if path in counts:
            path = (*path, str(counts[path]))
    return path


def _key(text: str, at: int) -> tuple[Path, int]:
    """The parts of a dotted key, and where it ends."""
    parts: list[str] = []
    while (match := _PART.match(text, at)) is not None:
        at = match.end()
        if match["basic"] is not None:
            parts.append(msgspec.toml.decode(f"key = {match['basic']}")["key"])
        else:
            parts.append(match["bare"] if match["literal"] is None else match["literal"])
        if not text.startswith(".", at):
            break
        at += 1
    return tuple(parts), at


def _value_end(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None or (piece[0] == "\n" and depth == 0):
            break
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(piece[0], 0)
        at = piece.end()
    return at + 1


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at

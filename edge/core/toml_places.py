"""Where in a TOML file that is stands which does not fit: its table by name, and its line."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_PATH = re.compile(r" - at (?P<of_key>`key` in )?`\$(?P<path>[^`]*)`$")
_SEGMENT = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_HEADER = re.compile(r"\s*\[\[?(?P<name>[^\[\]]+)\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"""\s*(?P<name>"[^"]*"|'[^']*'|[\w-]+)\s*[.=]""")
_PART = re.compile(
    r"""\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[\w-]+))\s*(?:\.|$)"""
)


def describe(text: str, error: msgspec.ValidationError, kind: type) -> str:
    """What ``error`` says, with the table and the line where it is known.

    Args:
        text: TOML that was read as ``kind`` when the error was raised.
    """
    message = str(error)
    match = _PATH.search(message)
    segments = [part[0] or part[1] for part in _SEGMENT.findall(match["path"])] if match else []
    if match and match["of_key"]:
        segments.append("...")
    path = _named(msgspec.toml.decode(text), segments, kind)
    unknown = _UNKNOWN.search(message)
    line = _line(text, [*path, unknown["name"]] if unknown else path)
    what = message[: match.start()] if match else message
    where = f"[{'.'.join(path)}]" if path else "the file"
    return f"line {line}, {where}: {what}" if line else f"{where}: {what}"


def _named(raw: Any, segments: list[str], kind: type) -> list[str]:
    """The path with the names of those tables that may have any name.

    msgspec leaves them out. Each is the first one without whose neighbours it still fails.
    """
    path: list[str] = []
    for segment in segments:
        tables = _at(raw, path)
        if segment != "..." or not isinstance(tables, dict):
            path.append(segment)
            continue
        everything = dict(tables)
        for name, table in everything.items():
            tables.clear()
            tables[name] = table
            try:
                msgspec.convert(raw, kind)
            except msgspec.ValidationError:
                break
        path.append(next(iter(tables)))
    return path


def _at(raw: Any, path: list[str]) -> Any:
    for name in path:
        raw = raw[int(name)] if isinstance(raw, list) else raw.get(name)
    return raw


def _line(text: str, path: list[str]) -> int:
    """The number of the line that says most of ``path``; 0 if none says any of it."""
    best, found = 0, 0
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.fullmatch(line), _KEY.match(line)
        if header is not None:
            said = table = _parts(header["name"])
        elif key is not None:
            said = [*table, *_parts(line.partition("=")[0])]
        else:
            continue
        depth = _shared(said, path)
        if depth > best and depth == min(len(said), len(path)):
            best, found = depth, number
    return found


def _parts(name: str) -> list[str]:
    return [part[0] or part[1] or part[2] for part in _PART.findall(name)]


def _shared(one: list[str], other: list[str]) -> int:
    """How many names they begin with in common."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count

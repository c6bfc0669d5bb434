"""Where in a TOML file that is stands which does not fit: its table by name, and its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from edge.core.toml_lines import statements

_PATH = re.compile(r" - at (?P<of_key>`key` in )?`\$(?P<path>[^`]*)`$")
_SEGMENT = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")


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
    what = message[: match.start()] if match else message
    where = f"[{'.'.join(path)}]" if path else "the file"
    known = _keys(kind, path)
    unknown = _UNKNOWN.search(message)
    key = unknown["name"] if unknown else what.partition(" ")[0]
    if unknown and known:
        near = difflib.get_close_matches(key, known, n=1)
        what += f"; did you mean `{near[0]}`?" if near else f"; there are {', '.join(known)}"
    # What is wrong with a whole table begins with the key that is to blame.
    line = line_of(text, [*path, key] if unknown or key in known else path)
    return f"line {line}, {where}: {what}" if line else f"{where}: {what}"


def _keys(kind: type, path: list[str]) -> list[str]:
    """The keys that the table at ``path`` may have; none if it may have any, or is no table."""
    info: Any = msgspec.inspect.type_info(kind)
    for name in path:
        if isinstance(info, msgspec.inspect.StructType):
            info = next((field.type for field in info.fields if field.encode_name == name), None)
        else:
            info = getattr(info, "value_type", None) or getattr(info, "item_type", None)
        info = getattr(info, "type", info)  # of a type with metadata
    is_table = isinstance(info, msgspec.inspect.StructType)
    return [field.encode_name for field in info.fields] if is_table else []


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


def line_of(text: str, path: Sequence[str]) -> int:
    """The number of the line that says most of ``path``; 0 if none says any of it."""
    best, found = 0, 0
    for line, said in statements(text):
        depth = _shared(said, path)
        if depth > best and depth == min(len(said), len(path)):
            best, found = depth, line
    return found


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many names they begin with in common."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count

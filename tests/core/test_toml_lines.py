from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.toml_lines import statements

DOCUMENT = '''\
# [not.a.table]
first = """
[nor.this]
key = 1
"""

[serve]  # [x]
"a=b" = ["]", '[', # key = 1
  "{",
]
'c.d' . e = { f = "}", g = [1] }
text = \'\'\'
second = 2\'\'\'\'\'
[ models . "x]y" ]
"\\u0041" = 1
[[steps]]
name = "one"
[[steps.parts]]
[steps.parts.inner]
z = 1
[[steps]]
[[steps.parts]]
last = true'''

LINES = {
    ("first",): 2,
    ("serve",): 7,
    ("serve", "a=b"): 8,
    ("serve", "c.d", "e"): 11,
    ("serve", "text"): 12,
    ("models", "x]y"): 14,
    ("models", "x]y", "A"): 15,
    ("steps", "0"): 16,
    ("steps", "0", "name"): 17,
    ("steps", "0", "parts", "0"): 18,
    ("steps", "0", "parts", "0", "inner"): 19,
    ("steps", "0", "parts", "0", "inner", "z"): 20,
    ("steps", "1"): 21,
    ("steps", "1", "parts", "0"): 22,
    ("steps", "1", "parts", "0", "last"): 23,
}


def test_every_statement_is_found_on_its_line_and_nothing_else_is() -> None:
    msgspec.toml.decode(DOCUMENT)
    assert {path: line for line, path in statements(DOCUMENT)} == LINES


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n# the end\n"])
def test_the_end_of_lines_does_not_matter(end: str) -> None:
    text = end.join(["a = 1", "[b]", "c = [", "1]", "d = 2", ""])
    (_, _, (line_c, _), (line_d, path)) = statements(text)
    assert path == ("b", "d")
    assert line_d == line_c + end.count("\n") * 2


NASTY = ["a", "B-1", "a b", "x.y", "a=b", "[t]", "#no", "it's", 'say "hi"', "", "ünï", "\\", "1"]
KEYS = st.sampled_from(NASTY)
TEXTS = st.sampled_from([*NASTY, "[a]\nb = 1\n", "'''", '"""', "\n\n[[x]]", "]", "}", "a\\"])
LEAVES = st.one_of(TEXTS, st.integers(-9, 9), st.booleans())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=5,
)
TABLES = st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), max_size=3)


def basic(text: str) -> str:
    return msgspec.json.encode(text).decode()


def spelled(text: str, draw: Any) -> str:
    """A key in one of the ways to write it."""
    ways = [basic(text)]
    if "'" not in text and "\n" not in text:
        ways.append(f"'{text}'")
    if text.isascii() and text.replace("-", "").isalnum():
        ways.append(text)
    return str(draw(st.sampled_from(ways)))


def written(value: Any, draw: Any, *, is_inline: bool = False) -> str:
    """A value in one of the ways to write it, some over several lines."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        ways = [basic(value)]
        if not is_inline and "\\" not in value and '"""' not in value and value[-1:] != '"':
            ways.append(f'"""\n{value}"""')
        if not is_inline and "'''" not in value and value[-1:] != "'":
            ways.append(f"'''\n{value}'''")
        return str(draw(st.sampled_from(ways)))
    if isinstance(value, list):
        gap = " " if is_inline else draw(st.sampled_from([" ", "\n", " # [c]\n  "]))
        items = [written(item, draw, is_inline=is_inline) + "," + gap for item in value]
        return f"[{gap}{''.join(items)}]"
    pairs = [f"{spelled(k, draw)} = {written(v, draw, is_inline=True)}" for k, v in value.items()]
    return "{ " + ", ".join(pairs) + " }"


@given(TABLES, st.data())
def test_lines_are_those_on_which_any_document_was_written(tables: Any, data: Any) -> None:
    draw = data.draw
    text, lines = "", {}
    for name, table in tables.items():
        text += draw(st.sampled_from(["", "\n", "# [a] b = 1\n\n"]))
        has_head = draw(st.booleans()) or not table or bool(text.strip())
        if has_head:
            lines[name,] = text.count("\n") + 1
            text += f"[{spelled(name, draw)}]{draw(st.sampled_from(['', ' # c = 1']))}\n"
        for key, value in table.items():
            lines[name, key] = text.count("\n") + 1
            start = "" if has_head else f"{spelled(name, draw)} . "
            text += f"{start}{spelled(key, draw)} = {written(value, draw)}\n"
    assert msgspec.toml.decode(text) == tables
    assert {path: line for line, path in statements(text)} == lines

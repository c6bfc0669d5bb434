from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from edge.core.toml_places import describe

Short = Annotated[str, msgspec.Meta(pattern=r"\A[a-z]+\Z")]


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(gt=0)] = 1
    names: tuple[str, ...] = ()
    inputs: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.names == ("odd",) and self.size % 2:
            raise ValueError("size is odd, and so are the names")


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    leaves: dict[Short, Leaf] = {}
    first: Leaf = Leaf()


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    branches: dict[Short, Branch] = {}
    root: Leaf = Leaf()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (
            "[root]\n\nsise = 1",
            "line 3, [root]: Object contains unknown field `sise`; did you mean `size`?",
        ),
        ("[root]\nsize = 0", "line 2, [root.size]: Expected `int` >= 1"),
        (
            "[rot]\nsize = 1",
            "line 1, the file: Object contains unknown field `rot`; did you mean `root`?",
        ),
        ("x = 1", "line 1, the file: Object contains unknown field `x`; there are branches, root"),
        (
            'text = """\n[root]\nsise = 1"""',
            "line 1, the file: Object contains unknown field `text`",
        ),
        ("[root]\nnames = [\n'size = 1',\n]\nsize = 0", "line 5, [root.size]: Expected `int` >= 1"),
        (
            "[branches.a.leaves.x]\nsize = 1\nnaems = []",
            "line 3, [branches.a.leaves.x]: Object contains unknown field `naems`; did you mean `n",
        ),
        ("[root]\nsize = 3\nnames = ['odd']", "line 2, [root]: size is odd, and so are the names"),
        ("root = { size = 0 }", "line 1, [root.size]: Expected `int` >= 1"),
        ("root.size = 0", "line 1, [root.size]: Expected `int` >= 1"),
        (
            "[branches.a.leaves.x]\nsize = 1\n[branches.b.leaves.x]\nsize = 2\n"
            "[branches.b.leaves.y] # here\nsize = 'three'",
            "line 6, [branches.b.leaves.y.size]: Expected `int`, got `str`",
        ),
        (
            "[branches.a.first]\nsize = 1\n[branches.b.first]\nsise = 1",
            "line 4, [branches.b.first]: Object contains unknown field `sise`",
        ),
        (
            "[branches.a.leaves.x]\nnames = ['a', 3]",
            "line 2, [branches.a.leaves.x.names.1]: Expected `str`, got `int`",
        ),
        (
            "[branches.a.leaves.x]\ninputs = { a = 'b', c = 4 }",
            "line 2, [branches.a.leaves.x.inputs.c]: Expected `str`, got `int`",
        ),
        (
            "[branches.a]\n[branches.'B b'.first]",
            "line 2, [branches.B b]: Expected `str` matching regex",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(text: str, where: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.toml.decode(text, type=Tree)
    assert describe(text, raised.value, Tree).startswith(where)

from __future__ import annotations

import numpy as np
import pytest

from edge.core.errors import InputError, SettingsError
from edge.host.pipelines.conditions import parse
from edge.vision import Label

FOUND = (Label(1, "a dog", 0.7), Label(0, "cat", 0.2), Label(1, "a dog", 0.1))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("s.count == 3", True),
        ("s.count!=3", False),
        ("s.count(a dog) >= 2", True),
        ("s.count(cow) > 0", False),
        ("  s.count  <  3.5 ", True),
        ("s.label == 'a dog'", True),
        ('s.label != "a dog"', False),
        ("""s.label != "jack-o'-lantern" """, True),
        ("s.score > .69", True),
        ("s.score <= 7e-1", True),
        ("s.score < -1", False),
    ],
)
def test_labels_and_boxes_are_compared(text: str, holds: bool) -> None:
    assert parse(text).holds_for_found(FOUND) is holds


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("s.count == 0", True),
        ("s.label == 'x'", False),
        ("s.label != 'x'", True),
        ("s.score < 1", False),
        ("s.score >= 0", False),
    ],
)
def test_where_nothing_was_found_only_differences_hold(text: str, holds: bool) -> None:
    assert parse(text).holds_for_found(()) is holds


def test_a_tensor_of_one_element_is_compared() -> None:
    condition = parse("vad.output.0 > 0.5")
    assert (condition.step, condition.fact) == ("vad", "output.0")
    assert condition.holds_for_tensor(np.array([[0.6]], np.float32))
    assert not condition.holds_for_tensor(np.array(0.4))
    assert parse("s.x == 'yes'").holds_for_tensor(np.array(["yes"], object))
    assert parse("s.x == 1").holds_for_tensor(np.array([True]))


def test_a_tensor_of_another_kind_is_an_error() -> None:
    with pytest.raises(InputError, match="compares one element, x has 2"):
        parse("s.x > 0").holds_for_tensor(np.zeros(2))
    with pytest.raises(InputError, match="compares with 'yes', of another type"):
        parse("s.x > 0").holds_for_tensor(np.array(["yes"]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "s.count",
        "s.count > ",
        "s.count > x",
        "s.count > 1 and s.count < 3",
        "s.count => 1",
        ".count > 1",
        "s. > 1",
        "s.label == 'x",
        "s.label == 'x' or 'y'",
        "s.count() > 1",
        "s.label(x) == 'x'",
        "__import__('os').system('true') == 0",
        "1 > s.count",
    ],
)
def test_anything_else_is_no_condition(text: str) -> None:
    with pytest.raises(SettingsError, match="when = "):
        parse(text)

"""What a declared pipeline may say, and what is wrong with it before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import color_models
import msgspec
import pytest

from edge.core.errors import SettingsError
from edge.core.manifest import Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.host.pipelines.graph import Graph, plan

Plan = Callable[[str], Graph]

THINGS = '[steps.things]\nmodel = "finder"\n'
NAMES = '[steps.names]\nmodel = "namer"\ncrop = "things"\n'


@pytest.fixture
def planned(declared: Callable[[str], Any], manifests: dict[str, Manifest | None]) -> Plan:
    labels = dict.fromkeys(("finder", "namer"), color_models.COLORS)
    return lambda text: plan("line", declared(text), manifests, labels)


def test_steps_may_stand_in_any_order(planned: Plan) -> None:
    graph = planned(
        NAMES + '[steps.inner]\nmodel = "namer"\ncrop = "deep"\n'
        '[steps.deep]\nmodel = "finder"\ncrop = "things"\n' + THINGS
    )
    order = list(graph.steps)
    assert order.index("things") < order.index("deep") < order.index("inner")
    assert order.index("things") < order.index("names")
    assert graph.steps["inner"].path == ("things", "deep")


def test_all_steps_are_answered_with_unless_some_are_named(planned: Plan) -> None:
    assert [output.name for output in planned(NAMES + THINGS).outputs] == ["things", "names"]
    named = planned(f'output = ["things"]\n{NAMES}{THINGS}')
    assert [output.name for output in named.outputs] == ["things"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("steps = {}", "pipeline line has no steps", ""),
        (
            '[steps.things]\nmodel = "fender"',
            "pipeline line, step things: there is no model named 'fender'",
            "there are: adder, broken, finder,",
        ),
        (
            THINGS + NAMES.replace('"things"', '"thongs"'),
            "pipeline line, step names: there is no step 'thongs'",
            "there are: things, names",
        ),
        (
            f'output = ["nomes"]\n{THINGS}{NAMES}',
            "pipeline line: output names no step: 'nomes'",
            "there are: things, names",
        ),
        (
            f'output = ["names.z"]\n{THINGS}{NAMES}',
            "pipeline line, step names: namer has no output 'z'",
            "it has y",
        ),
        (
            '[steps.score]\nmodel = "finder"',
            "step score: no step can have this name",
            "input, picture, x0",
        ),
        (
            f'{THINGS}crop = "names"\n{NAMES}',
            "pipeline line: its steps wait for each other in a circle: ",
            "",
        ),
        (
            '[steps.a]\nmodel = "namer"\nwhen = "a.count > 0"',
            "wait for each other in a circle: a → a",
            "",
        ),
        (
            f'{THINGS}{NAMES}[steps.deep]\nmodel = "namer"\ncrop = "names"',
            "step deep: crop = 'names', but that step finds no boxes",
            "these do: things",
        ),
        (
            '[steps.sum]\nmodel = "adder"',
            "step sum: adder takes no pictures",
            "say where its tensors come from, inputs = { … }: a, b",
        ),
        (
            f'{THINGS}[steps.sum]\nmodel = "adder"\ncrop = "things"',
            "step sum: adder takes no pictures",
            "",
        ),
        (
            '[steps.sum]\nmodel = "adder"\ninputs = { a = "input.a" }',
            "step sum: adder also takes 'b'",
            "it takes a, b",
        ),
        (
            '[steps.sum]\nmodel = "adder"\ninputs = { a = "input.a", b = "input.b", c = "s.c" }\n'
            '[steps.s]\nmodel = "finder"',
            "step sum: adder has no input 'c'",
            "it takes a, b",
        ),
        (
            '[steps.sum]\nmodel = "adder"\ninputs = { a = "input", b = "input.b" }',
            "step sum: 'input' names no tensor",
            "write step.tensor",
        ),
        (
            f'{THINGS}[steps.sum]\nmodel = "adder"\ninputs = {{ a = "things.z", b = "input.b" }}',
            "step sum: finder has no output 'z'",
            "it has y",
        ),
        (
            f'{THINGS}[steps.sum]\nmodel = "adder"\ninputs = {{ a = "things.y", b = "input.b" }}',
            "step sum: things.y is float32 (row, 3, 6), 'a' of adder takes float32 (n, 3)",
            "",
        ),
        (
            '[steps.sum]\nmodel = "adder"\ninputs = { a = "input.picture", b = "input.b" }',
            "step sum: input.picture is the picture, and no tensor",
            "",
        ),
        (
            f'{THINGS}when = "input.flag > 0"',
            "step things: when = 'input.flag > 0': no step takes input.flag",
            "",
        ),
        (f"{THINGS}top = 2", "step things: top is about labels, finder does detection", ""),
        (
            f'{THINGS}{NAMES}labels = ["blue", "gren"]',
            "step names: finder knows no 'gren'",
            "it knows 3 classes, among them green",
        ),
        (
            f'{THINGS}{NAMES}when = "things.count(purple) > 0"',
            "step names: finder knows no 'purple'",
            "among them blue, green, red",
        ),
        (
            f"{THINGS}{NAMES}when = \"things.label == 'blu'\"",
            "step names: finder knows no 'blu'",
            "among them blue",
        ),
        (f'{THINGS}{NAMES}when = "things"', "step names: when = 'things' is no condition", "cars"),
        (
            f'{THINGS}{NAMES}when = "things.size > 1"',
            "step names: finder has no output 'size'",
            "it has y",
        ),
        (
            f"{THINGS}{NAMES}when = \"things.count > 'many'\"",
            "count is to be compared with a number",
            "",
        ),
        (f'{THINGS}{NAMES}when = "things.label == 3"', "compared with a 'text'", ""),
        (f"{THINGS}{NAMES}when = \"things.label < 'b'\"", "a label is == or != another", ""),
        (f'{THINGS}{NAMES}when = "things.score(blue) > 0"', "only count takes a label", ""),
        (
            f'{THINGS}{NAMES}[steps.scene]\nmodel = "namer"\nwhen = "names.score > 0.5"',
            "when = 'names.score > 0.5' is known once for each box of things, "
            "this step runs once for the whole",
            "",
        ),
        (
            f'{THINGS}{NAMES}[steps.more]\nmodel = "finder"\n'
            '[steps.others]\nmodel = "namer"\ncrop = "more"\n'
            '[steps.sum]\nmodel = "adder"\ninputs = { a = "names.y", b = "others.y" }',
            "is known once for each box of",
            "",
        ),
    ],
)
def test_what_makes_no_sense_is_named(planned: Plan, text: str, message: str, hint: str) -> None:
    with pytest.raises(SettingsError) as raised:
        planned(text)
    assert message in str(raised.value)
    assert "pipeline line" in str(raised.value)
    assert hint in raised.value.hint


def test_a_damaged_model_leaves_the_rest_to_be_checked(planned: Plan) -> None:
    planned('[steps.things]\nmodel = "broken"\n' + NAMES)
    with pytest.raises(SettingsError, match="step sum: adder also takes 'b'"):
        planned(
            '[steps.things]\nmodel = "broken"\n[steps.sum]\nmodel = "adder"\n'
            'inputs = { a = "things.whatever" }'
        )


def test_an_input_of_two_models_has_the_shape_that_fits_both(
    declared: Callable[[str], Any], manifests: dict[str, Manifest | None]
) -> None:
    text = '[steps.one]\nmodel = "adder"\ninputs = { a = "input.x", b = "input.x" }\n'
    other = '[steps.two]\nmodel = "other"\ninputs = { a = "input.x", b = "input.z" }\n'
    narrow = manifest_with(manifests["adder"], TensorSpec("a", "float32", (2, 3)))
    graph = plan("line", declared(text + other), {**manifests, "other": narrow}, {})
    assert graph.inputs["x"] == TensorSpec("x", "float32", (2, 3))
    wrong = manifest_with(manifests["adder"], TensorSpec("a", "int64", (2, 3)))
    with pytest.raises(SettingsError, match=r"input\.x is float32 .* to one step and int64"):
        plan("line", declared(text + other), {**manifests, "other": wrong}, {})


def manifest_with(manifest: Manifest | None, tensor: TensorSpec) -> Manifest:
    """``adder`` whose first input is another one."""
    assert manifest is not None
    variant: Variant = manifest.variants[0]
    inputs = (tensor, *variant.inputs[1:])
    changed = msgspec.structs.replace(variant, inputs=inputs)
    return msgspec.structs.replace(manifest, name="other", variants=(changed,))


def test_a_model_of_a_picture_and_more_is_to_be_given_tensors(
    declared: Callable[[str], Any], manifests: dict[str, Manifest | None]
) -> None:
    finder = color_models.finder()
    (variant,) = finder.variants
    inputs = (*variant.inputs, TensorSpec("size", "int64", (2,)))
    both = msgspec.structs.replace(
        finder, variants=(msgspec.structs.replace(variant, inputs=inputs),)
    )
    with pytest.raises(SettingsError, match="step things: finder takes more than pictures"):
        plan("line", declared(THINGS), {"finder": both}, {})

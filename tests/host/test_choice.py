from __future__ import annotations

from collections.abc import Callable

import pytest

from edge.core.contracts import Availability
from edge.core.errors import InputError, NotFoundError
from edge.core.manifest import Latency, Manifest, Variant
from edge.host.choice import Choice, Machine, Wish, choose, explain

READY = Availability(ready=True, version="1.0", devices=("cpu",))
ABSENT = Availability(ready=False, reason="it is not installed", hint="pip install it")
BOTH = Machine({"onnxruntime": READY, "openvino": READY}, order=("openvino", "onnxruntime"))

MakeVariant = Callable[..., Variant]


def manifest(*variants: Variant) -> Manifest:
    return Manifest(
        schema=1,
        name="net",
        version="1",
        task="tensors",
        profile="host",
        source_sha256="0" * 64,
        variants=variants,
    )


def ids(choice: Choice) -> list[str]:
    return [candidate.variant.id for candidate in choice.candidates]


def reason(choice: Choice, wish: Wish) -> str:
    return explain(choice.candidates[0], choice, choice.obstacles, wish, "")


def test_the_variant_chosen_at_conversion_comes_first(make_variant: MakeVariant) -> None:
    given = manifest(
        make_variant("ov", "openvino"), make_variant("ort", "onnxruntime", chosen=True)
    )
    choice = choose(given, BOTH, Wish())
    assert ids(choice) == ["ort", "ov"]
    assert reason(choice, Wish()) == "chosen at conversion"


def test_engines_come_in_the_order_of_the_profile(make_variant: MakeVariant) -> None:
    given = manifest(make_variant("ort", "onnxruntime"), make_variant("ov", "openvino"))
    choice = choose(given, BOTH, Wish())
    assert ids(choice) == ["ov", "ort"]
    assert "order of engines" in reason(choice, Wish())


def test_the_faster_variant_of_an_engine_comes_first(make_variant: MakeVariant) -> None:
    slow = make_variant("slow", "openvino", latency_ms=Latency(9.0, 9.0))
    fast = make_variant("fast", "openvino", latency_ms=Latency(1.0, 1.0))
    unmeasured = make_variant("a-unmeasured", "openvino")
    assert ids(choose(manifest(unmeasured, slow, fast), BOTH, Wish())) == [
        "fast",
        "slow",
        "a-unmeasured",
    ]


def test_an_engine_that_is_not_here_is_an_obstacle(make_variant: MakeVariant) -> None:
    machine = Machine({"onnxruntime": READY, "openvino": ABSENT})
    given = manifest(
        make_variant("ov", "openvino", chosen=True), make_variant("ort", "onnxruntime")
    )
    choice = choose(given, machine, Wish())
    assert ids(choice) == ["ort"]
    assert choice.preferred.id == "ov"
    assert choice.hint == "pip install it"
    assert reason(choice, Wish()) == (
        "ov was chosen at conversion but can not run here: "
        "openvino is not available: it is not installed"
    )


def test_an_engine_that_this_edge_does_not_know_is_an_obstacle(make_variant: MakeVariant) -> None:
    choice = choose(manifest(make_variant("v", "warpdrive")), BOTH, Wish())
    assert not choice.candidates
    assert choice.obstacles == {"v": "there is no engine named warpdrive"}


def test_only_the_engine_that_was_asked_for_is_taken(make_variant: MakeVariant) -> None:
    given = manifest(
        make_variant("ort", "onnxruntime", chosen=True), make_variant("ov", "openvino")
    )
    wish = Wish(engine="openvino")
    choice = choose(given, BOTH, wish)
    assert ids(choice) == ["ov"]
    assert "asked for" in reason(choice, wish)


def test_only_the_variant_that_was_asked_for_is_taken(make_variant: MakeVariant) -> None:
    given = manifest(make_variant("a", "openvino", chosen=True), make_variant("b", "openvino"))
    wish = Wish(variant="b")
    choice = choose(given, BOTH, wish)
    assert ids(choice) == ["b"]
    assert reason(choice, wish) == "asked for by its id"


@pytest.mark.parametrize(
    "wish", [Wish(variant="c"), Wish(engine="null"), Wish(variant="a", engine="onnxruntime")]
)
def test_what_the_bundle_does_not_have_is_said(make_variant: MakeVariant, wish: Wish) -> None:
    with pytest.raises(NotFoundError, match="net has no variant with") as caught:
        choose(manifest(make_variant("a", "openvino")), BOTH, wish)
    assert caught.value.hint == "it has: a (openvino)"


def test_a_device_that_is_not_here_becomes_the_cpu(make_variant: MakeVariant) -> None:
    machine = Machine({"openvino": READY}, options={"openvino": {"device": "NPU"}})
    choice = choose(manifest(make_variant("ov", "openvino", chosen=True)), machine, Wish())
    assert [(c.wanted, c.device) for c in choice.candidates] == [("npu", "cpu")]
    assert reason(choice, Wish()) == "chosen at conversion; on cpu, as there is no npu here"


def test_the_callers_device_overrides_the_profiles(make_variant: MakeVariant) -> None:
    npu = Availability(ready=True, devices=("cpu", "npu"))
    machine = Machine({"openvino": npu}, options={"openvino": {"device": "NPU"}})
    given = manifest(make_variant("ov", "openvino"))
    assert choose(given, machine, Wish()).candidates[0].device == "npu"
    asked = choose(given, machine, Wish(options={"device": "CPU"})).candidates[0]
    assert (asked.wanted, asked.device) == ("cpu", "cpu")


def test_a_requirement_that_the_machine_does_not_meet_is_an_obstacle(
    make_variant: MakeVariant,
) -> None:
    variant = make_variant("ov", "openvino", requires={"shapes": "static", "sm": "87"})
    choice = choose(manifest(variant), BOTH, Wish())
    assert choice.obstacles == {"ov": "it needs sm 87, this machine has none"}
    met = Machine({"openvino": READY}, facts={"sm": "87"})
    assert ids(choose(manifest(variant), met, Wish())) == ["ov"]


STANDING_IN = Availability(
    ready=True,
    version="1.31",
    devices=("cpu", "cuda", "tensorrt"),
    stands_in={"tensorrt": ("tensorrt", "cuda", "cpu")},
)
JETSON = Machine(
    {"tensorrt": ABSENT, "onnxruntime": STANDING_IN}, order=("tensorrt", "onnxruntime")
)


def runs(choice: Choice) -> list[tuple[str, str, str]]:
    return [(one.variant.id, one.engine, one.device) for one in choice.candidates]


def test_another_engine_stands_in_for_one_that_is_not_here(make_variant: MakeVariant) -> None:
    """On its accelerators before an ordinary variant runs on the CPU, on the CPU after all else."""
    given = manifest(
        make_variant("int8", "tensorrt", chosen=True),
        make_variant("fp16", "tensorrt"),
        make_variant("ort", "onnxruntime"),
    )
    choice = choose(given, JETSON, Wish())
    assert runs(choice) == [
        ("int8", "onnxruntime", "tensorrt"),
        ("int8", "onnxruntime", "cuda"),
        ("fp16", "onnxruntime", "tensorrt"),
        ("fp16", "onnxruntime", "cuda"),
        ("ort", "onnxruntime", "cpu"),
        ("int8", "onnxruntime", "cpu"),
        ("fp16", "onnxruntime", "cpu"),
    ]
    assert reason(choice, Wish()) == (
        "int8 was chosen at conversion but its own engine can not run it here: "
        "tensorrt is not available: it is not installed; onnxruntime runs int8 on tensorrt"
    )
    assert choice.candidates[0].label == "int8 through onnxruntime on tensorrt"


def test_an_engine_of_its_own_comes_before_those_that_stand_in(make_variant: MakeVariant) -> None:
    own = Availability(ready=True, version="10.3.0", devices=("gpu",))
    machine = Machine({"tensorrt": own, "onnxruntime": STANDING_IN}, order=JETSON.order)
    given = manifest(make_variant("int8", "tensorrt"), make_variant("fp16", "tensorrt"))
    assert runs(choose(given, machine, Wish()))[:3] == [
        ("fp16", "tensorrt", "gpu"),
        ("int8", "tensorrt", "gpu"),
        ("fp16", "onnxruntime", "tensorrt"),
    ]


def test_an_engine_that_is_named_has_no_stand_in(make_variant: MakeVariant) -> None:
    given = manifest(make_variant("int8", "tensorrt"))
    assert runs(choose(given, JETSON, Wish(engine="tensorrt"))) == []
    assert len(choose(given, JETSON, Wish(variant="int8")).candidates) == 3


def test_a_stand_in_runs_on_the_device_that_was_asked_for(make_variant: MakeVariant) -> None:
    given = manifest(make_variant("int8", "tensorrt"))
    for device, expected in (("cuda", ["cuda"]), ("gpu", ["tensorrt", "cuda", "cpu"])):
        choice = choose(given, JETSON, Wish(options={"device": device}))
        assert [one.device for one in choice.candidates] == expected


def test_a_stand_in_meets_all_requirements_but_those_of_the_engine(
    make_variant: MakeVariant,
) -> None:
    one = make_variant("int8", "tensorrt", requires={"tensorrt": ">=10.3,<11"})
    assert len(choose(manifest(one), JETSON, Wish()).candidates) == 3
    other = make_variant("fp8", "tensorrt", requires={"tensorrt": ">=10.3", "sm": ">=89"})
    assert choose(manifest(other), JETSON, Wish()).candidates == ()


def test_an_unknown_fallback_is_refused() -> None:
    with pytest.raises(InputError, match="fallback is 'maybe'") as caught:
        Wish(fallback="maybe")  # type: ignore[arg-type]
    assert "deny, warn, allow" in caught.value.hint

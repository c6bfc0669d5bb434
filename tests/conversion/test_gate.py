"""The gate chooses by accuracy first, then by latency or by the profile's order."""

from __future__ import annotations

import msgspec
import pytest

from edge.conversion.gate import DEFAULT_AGREEMENT_DROP, decide
from edge.core.manifest import Latency, Metric, Variant
from edge.core.profile import load_profile


def _variant(
    engine: str, precision: str, top1: float | None, agreement: float | None, p50: float | None
) -> Variant:
    return Variant(
        id=f"{engine}-{precision}",
        engine=engine,
        precision=precision,
        files=(),
        inputs=(),
        outputs=(),
        metric=None if top1 is None else Metric("top1", top1),
        agreement=agreement,
        latency_ms=None if p50 is None else Latency(p50, p50),
    )


SET = (
    _variant("onnxruntime", "fp32", 90.0, 1.0, 4.0),
    _variant("onnxruntime", "int8", 88.0, 0.93, 1.0),
    _variant("openvino", "fp32", 90.0, 1.0, 3.0),
    _variant("openvino", "int8", 89.8, 0.98, 1.5),
)


def _decide(variants=SET, **changes):  # type: ignore[no-untyped-def]
    arguments = {
        "source_metric": Metric("top1", 90.0),
        "max_drop": 0.5,
        "must_pass": True,
        "is_latency_valid": True,
    }
    return decide(variants, load_profile("host"), **{**arguments, **changes})


def test_fastest_that_keeps_the_accuracy_is_chosen():
    decision = _decide()
    assert [v.id for v in decision.kept] == ["openvino-int8", "onnxruntime-fp32"]
    assert [v.chosen for v in decision.kept] == [True, False]
    assert decision.gate.met


def test_wider_gate_lets_the_faster_variant_in():
    assert _decide(max_drop=2.0).kept[0].id == "onnxruntime-int8"


def test_without_labels_agreement_decides():
    decision = _decide(source_metric=None, max_drop=None)
    assert decision.gate.measure == "agreement"
    assert decision.gate.max_drop == DEFAULT_AGREEMENT_DROP
    assert decision.kept[0].id == "openvino-int8"


def test_latency_of_another_machine_does_not_decide():
    slow_int8 = (
        _variant("onnxruntime", "fp32", 90.0, 1.0, 1.0),
        _variant("onnxruntime", "int8", 90.0, 1.0, 9.0),
    )
    assert _decide(slow_int8).kept[0].precision == "fp32"
    assert _decide(slow_int8, is_latency_valid=False).kept[0].precision == "int8"


def test_named_precision_is_kept_and_its_miss_is_said():
    decision = _decide(SET[1:2], must_pass=False)
    assert [v.id for v in decision.kept] == ["onnxruntime-int8"]
    assert not decision.gate.met
    assert decision.gate.why == "onnxruntime-int8 loses 2.00 points of top1; 0.5 allowed"


@pytest.mark.parametrize("source_metric", [None, Metric("top1", 90.0)])
def test_unmeasured_variant_never_passes(source_metric):
    unmeasured = _variant("onnxruntime", "int8", None, None, None)
    decision = _decide((unmeasured,), source_metric=source_metric)
    assert not decision.gate.met
    assert "not measured" in decision.gate.why


def test_gain_is_no_loss():
    better = msgspec.structs.replace(SET[3], metric=Metric("top1", 90.4))
    decision = _decide((better,), max_drop=0.0)
    assert decision.gate.met
    assert "gains 0.40 points" in decision.gate.why


def test_of_two_recipes_the_one_that_loses_less_stands_and_the_other_is_told():
    plain = msgspec.structs.replace(SET[3], id="openvino-int8-plain", metric=Metric("top1", 89.9))
    decision = _decide((SET[3], plain))
    assert [variant.id for variant in decision.ranked] == ["openvino-int8-plain"]
    (told,) = decision.surpassed
    assert told.id == "openvino-int8"
    assert told.why == "loses 0.20 points of top1; openvino-int8-plain is kept"


def test_of_equal_recipes_the_first_stands():
    plain = msgspec.structs.replace(SET[3], id="openvino-int8-plain")
    assert [variant.id for variant in _decide((SET[3], plain)).ranked] == ["openvino-int8"]


def test_chosen_one_is_the_fastest_whichever_engine_is_last_in_the_ranking():
    variants = (
        _variant("onnxruntime", "int8", 90.0, 1.0, 1.5),
        _variant("onnxruntime", "fp32", 90.0, 1.0, 2.0),
        _variant("openvino", "int8", 90.0, 1.0, 0.9),
        _variant("openvino", "fp32", 90.0, 1.0, 2.4),
    )
    decision = _decide(variants)
    assert [variant.id for variant in decision.kept] == ["openvino-int8", "onnxruntime-int8"]
    assert [variant.chosen for variant in decision.ranked] == [True, False, False, False]

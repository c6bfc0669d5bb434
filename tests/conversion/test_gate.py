"""The gate chooses by accuracy first, then by latency or by the profile's order."""

from __future__ import annotations

import msgspec
import pytest

from edge.conversion.gate import DEFAULT_AGREEMENT_DROP, bound_for, decide
from edge.conversion.measurement import Scores
from edge.conversion.workbench import Judged
from edge.core.manifest import FileEntry, Latency, Metric, Variant
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


TOP1 = Metric("top1", 90.0)


def _decide(variants=SET, *, source=TOP1, max_drop=0.5, **changes):  # type: ignore[no-untyped-def]
    bound = bound_for(source, max_drop)
    losses = {variant.id: bound.loss(_judged(variant)) for variant in variants}
    arguments = {"must_pass": True, "is_latency_valid": True, **changes}
    return decide(variants, losses, load_profile("host"), bound, **arguments)


def _judged(variant: Variant) -> Judged:
    is_measured = variant.agreement is not None
    return Judged(Scores(variant.metric, variant.agreement) if is_measured else None)


def test_fastest_that_keeps_the_accuracy_is_chosen():
    decision = _decide()
    assert [v.id for v in decision.kept] == ["openvino-int8", "onnxruntime-fp32"]
    assert [v.chosen for v in decision.kept] == [True, False]
    assert decision.gate.met


def test_wider_gate_lets_the_faster_variant_in():
    assert _decide(max_drop=2.0).kept[0].id == "onnxruntime-int8"


def test_without_labels_agreement_decides():
    decision = _decide(source=None, max_drop=None)
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


@pytest.mark.parametrize("source", [None, Metric("top1", 90.0)])
def test_unmeasured_variant_never_passes(source):
    unmeasured = _variant("onnxruntime", "int8", None, None, None)
    decision = _decide((unmeasured,), source=source)
    assert not decision.gate.met
    assert "not measured" in decision.gate.why


def test_gain_is_no_loss():
    better = msgspec.structs.replace(SET[3], metric=Metric("top1", 90.4))
    decision = _decide((better,), max_drop=0.0)
    assert decision.gate.met
    assert "gains 0.40 points" in decision.gate.why


def test_of_equally_fast_ones_the_more_accurate_is_chosen_then_the_smaller():
    exact, alike, worse = (
        _variant("openvino", precision, top1, 1.0, p50)
        for precision, top1, p50 in (
            ("bf16", 90.0, 1.03),
            ("fp16", 89.9, 1.02),
            ("int8", 89.2, 1.0),
        )
    )
    entry = FileEntry("model.bin", "0" * 64, 1000)
    alike, worse = (msgspec.structs.replace(v, files=()) for v in (alike, worse))
    exact = msgspec.structs.replace(exact, files=(entry,))
    assert _decide((exact, worse), max_drop=1.0).kept[0].precision == "bf16"
    assert _decide((exact, alike), max_drop=1.0).kept[0].precision == "fp16"


def test_front_has_what_nothing_else_beats_in_all_respects():
    assert _decide().front == {"onnxruntime-int8", "openvino-int8", "openvino-fp32"}


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

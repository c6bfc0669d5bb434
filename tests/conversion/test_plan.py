"""The plan lists what to make, and says why the rest is not made."""

from __future__ import annotations

import pytest

from edge.conversion import plan as planning
from edge.core.contracts import Availability, Recipe
from edge.core.errors import InputError, UnsupportedError
from edge.core.profile import load_profile


class _Converter:
    def __init__(self, engine: str, precisions: tuple[str, ...], reason: str = "") -> None:
        self.name = self.engine = engine
        self.precisions = precisions
        self._reason = reason

    def recipes(self, precision: str) -> dict[str, Recipe]:
        if precision != "int8":
            return {"": Recipe()}
        return {name: Recipe(needs_samples=True) for name in ("", "plain")}

    def availability(self) -> Availability:
        hint = f"mend {self._reason}" if self._reason else ""
        return Availability(ready=not self._reason, reason=self._reason, hint=hint)


@pytest.fixture
def converters(monkeypatch):
    table = {
        "one": _Converter("onnxruntime", ("fp32", "fp16", "int8")),
        "two": _Converter("openvino", ("fp32", "bf16", "fp16", "int8")),
    }
    monkeypatch.setattr(planning.plugins, "converters", lambda: table)
    return table


def _make(precision="auto", *, has_calibration=True, engines=()):  # type: ignore[no-untyped-def]
    return planning.make_plan(
        load_profile("host"), precision, has_calibration=has_calibration, engines=engines
    )


def test_auto_makes_every_legal_precision_of_every_engine_by_every_recipe(converters):
    assert {step.id for step in _make().steps} == {
        "onnxruntime-fp32",
        "onnxruntime-fp16",
        "onnxruntime-int8",
        "onnxruntime-int8-plain",
        "openvino-fp32",
        "openvino-bf16",
        "openvino-fp16",
        "openvino-int8",
        "openvino-int8-plain",
    }


def test_without_samples_int8_is_left_out_with_the_reason(converters):
    plan = _make(has_calibration=False)
    assert not any(step.precision == "int8" for step in plan.steps)
    assert {item.id: item.why for item in plan.refused} == {
        f"{engine}-int8{suffix}": "needs calibration samples (--calib)"
        for engine in ("onnxruntime", "openvino")
        for suffix in ("", "-plain")
    }


def test_int8_by_name_without_samples_is_an_input_error(converters):
    with pytest.raises(InputError, match="real samples") as caught:
        _make("int8", has_calibration=False)
    assert "--calib" in caught.value.hint


def test_precision_that_the_device_does_not_take_is_refused(converters):
    with pytest.raises(InputError, match="host does not run fp8"):
        _make("fp8")


def test_unusable_converter_is_named_with_its_reason(converters):
    converters["two"] = _Converter("openvino", ("fp32",), reason="nncf is not installed")
    plan = _make("fp32")
    assert [step.id for step in plan.steps] == ["onnxruntime-fp32"]
    assert plan.refused[0].why == "nncf is not installed"


def test_nothing_to_make_says_all_the_reasons(converters):
    converters.clear()
    converters["one"] = _Converter("onnxruntime", ("fp32",), reason="onnx is missing")
    with pytest.raises(
        UnsupportedError, match="openvino: no converter writes for it yet; onnxruntime: onnx is"
    ) as refusal:
        _make()
    assert refusal.value.hint == "mend onnx is missing"


def test_unknown_engine_is_refused(converters):
    with pytest.raises(InputError, match="host has no engine tensorrt"):
        _make(engines=["tensorrt"])

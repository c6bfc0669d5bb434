"""What the first lines of the page claim."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from edge.conversion.page.summary import summarize
from edge.conversion.report import Gate, Report, VariantRow
from edge.core.manifest import Latency


def changed(report: Report, name: str, **changes: Any) -> Report:
    rows = tuple(replace(row, **changes) if row.id == name else row for row in report.variants)
    return replace(report, variants=rows)


def choosing(report: Report, name: str) -> Report:
    rows = tuple(replace(row, chosen=row.id == name) for row in report.variants)
    return replace(report, variants=rows)


def plain(report: Report) -> str:
    found = summarize(report)
    text = " ".join((found.headline, *found.sentences, *found.cautions))
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_summary_says_what_was_gained_and_lost(report: Report) -> None:
    text = plain(report)
    for words in (
        "INT8 is 2.4 times as fast and keeps the accuracy asked for",
        "was converted for host. 7 variants were made and measured.",
        "INT8 on openvino (openvino-int8) is chosen; the bundle also holds onnxruntime-int8.",
        "An inference takes 0.900 ms instead of 2.20 ms",
        "shrinks from 4.95 MB to 1.43 MB",
        "It loses 0.20 points of top1; 0.5 points may be lost. The gate is met",
        "Measured on 500 samples of pictures, on a machine with 2 cores, x86_64.",
    ):
        assert words in text, words


def test_smaller_precision_that_is_slower_is_named(report: Report) -> None:
    assert "slower" not in plain(report)
    slow = changed(report, "onnxruntime-int8", latency_ms=Latency(2.9, 3.0))
    caution = (
        "INT8: the smaller precision is slower here. On onnxruntime it takes 2.90 ms, FP32 2.17 ms."
    )
    assert caution in plain(slow)


def test_a_few_percent_are_not_called_slower(report: Report) -> None:
    as_slow = changed(report, "onnxruntime-int8", latency_ms=Latency(2.2, 3.0))
    assert "slower" not in plain(as_slow)


def test_engine_without_fp32_is_compared_with_the_source(report: Report) -> None:
    rows = [row for row in report.variants if row.id != "onnxruntime-fp32"]
    only = replace(report, variants=tuple(rows))
    slow = changed(only, "onnxruntime-int8", latency_ms=Latency(2.9, 3.0))
    assert "On onnxruntime it takes 2.90 ms, the source 2.20 ms" in plain(slow)


def test_staying_with_fp32_says_what_became_of_the_others(report: Report) -> None:
    text = plain(choosing(report, "onnxruntime-fp32"))
    assert "Stay with FP32: no smaller precision does better" in text
    assert "too inaccurate: 1" in text


def test_fp32_alone_is_not_called_better_than_others(report: Report) -> None:
    rows: tuple[VariantRow, ...] = tuple(r for r in report.variants if r.precision == "fp32")
    assert "Stay with" not in plain(choosing(replace(report, variants=rows), "openvino-fp32"))


def test_missed_gate_is_the_headline(report: Report) -> None:
    missed = replace(report, gate=Gate(0.1, "top1", False, "loses 0.20 points; 0.1 allowed"))
    assert "Not good enough: INT8 loses more top1 than allowed" in plain(missed)
    assert "The gate is not met" in plain(missed)
    assert not summarize(missed).is_good


def test_unmeasured_accuracy_is_not_called_lost(report: Report) -> None:
    unknown = replace(
        changed(report, "openvino-int8", metric=None),
        gate=Gate(0.5, "top1", False, "openvino-int8 was not measured"),
    )
    assert "Not proven" in plain(unknown)
    assert "Its accuracy was not measured" in plain(unknown)


@pytest.mark.parametrize(
    ("agreement", "words"),
    [(1.0, "as the source does in all cases"), (0.9999, "in 99.99 % of the cases")],
)
def test_agreement_is_a_share_of_cases(report: Report, agreement: float, words: str) -> None:
    by_agreement = replace(report, gate=Gate(5.0, "agreement", True, ""))
    assert words in plain(changed(by_agreement, "openvino-int8", agreement=agreement))


def test_times_of_another_machine_are_said_to_be_so(report: Report) -> None:
    assert "not of" not in plain(report)
    assert "not of jetson-orin-nano-8gb" in plain(replace(report, profile="jetson-orin-nano-8gb"))


def test_warnings_of_the_checks_are_said_but_not_their_remarks(report: Report) -> None:
    assert "Warning: calibration pictures are darker." in plain(report)
    assert "66 of 68" not in plain(report)

"""A report with something in every section, and ways to look into the page made of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from edge.conversion.report import (
    SCHEMA,
    Disagreement,
    Gate,
    LayerError,
    MemoryEstimate,
    MemoryStep,
    ModelIdentity,
    Provenance,
    Refusal,
    Report,
    SourceRow,
    Trial,
    VariantRow,
)
from edge.core.contracts import Finding
from edge.core.manifest import Latency, Metric

VOID = {"meta", "img", "br"}
MACHINE = "a machine with 2 cores, x86_64"


def variant(name: str, *, top1: float, p50: float, size: int, **more: Any) -> VariantRow:
    engine, _, recipe = name.partition("-")
    more = {"agreement": 0.95, "chosen": False, "in_bundle": False, **more}
    return VariantRow(
        id=name,
        engine=engine,
        precision=recipe.partition("-")[0],
        size_bytes=size,
        metric=Metric("top1", top1),
        latency_ms=Latency(p50, 1.2 * p50),
        speedup=round(2.2 / p50, 3),
        measured_on=MACHINE,
        **more,
    )


VARIANTS = (
    variant(
        "openvino-int8",
        top1=58.4,
        p50=0.9,
        size=1_430_000,
        chosen=True,
        in_bundle=True,
        is_on_front=True,
        notes=("ranges by HISTOGRAM, 35.1 dB from float on the calibration samples",),
        placement={"CPU": 1.0},
        joules=0.0123,
    ),
    variant("openvino-bf16", top1=58.6, p50=1.05, size=2_580_000, is_on_front=True),
    variant("onnxruntime-int8", top1=58.3, p50=1.45, size=1_350_000, in_bundle=True),
    variant(
        "onnxruntime-fp16",
        top1=58.6,
        p50=2.17,
        size=2_490_000,
        placement={"CUDAExecutionProvider": 0.9, "CPUExecutionProvider": 0.1},
    ),
    variant("onnxruntime-fp32", top1=58.6, p50=2.17, size=4_960_000, agreement=1.0),
    variant("openvino-fp32", top1=58.6, p50=2.35, size=5_020_000, agreement=1.0),
    variant("onnxruntime-int8-plain", top1=31.9, p50=1.44, size=1_350_000),
)


def errors(start_db: float, fall_db: float) -> tuple[LayerError, ...]:
    values = [start_db - fall_db * number**0.5 for number in range(66)]
    values[40] -= 15.0
    return tuple(
        LayerError(f"/features/{number}/Conv_output_0", "Conv", round(db, 2), 1 - 10 ** (-db / 10))
        for number, db in enumerate(values)
    )


def thumbnail(shade: int) -> str:
    picture = np.full((96, 128, 3), shade, np.uint8)
    _, jpeg = cv2.imencode(".jpg", picture)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"


def disagreements() -> tuple[Disagreement, ...]:
    pairs = [("tench", "goldfish"), ("cock", "hen"), ("great white shark", "tiger shark")]
    return tuple(
        Disagreement(f"{number:04}.jpg", *pairs[number // 3 % 3], thumbnail(40 + 10 * number))
        for number in range(16)
    )


def memory() -> MemoryEstimate:
    live = [100_000 * (20 - abs(number - 12)) for number in range(30)]
    steps = tuple(MemoryStep(f"/features/{n}/Conv", "Conv", size) for n, size in enumerate(live))
    return MemoryEstimate(4_950_000, 4_950_000 + max(live), steps)


@pytest.fixture(scope="session")
def report() -> Report:
    return Report(
        schema=SCHEMA,
        model=ModelIdentity("squeezenet1.1", "1", "06bb" * 16),
        profile="host",
        source=SourceRow(Metric("top1", 58.6), Latency(2.2, 6.3), 4_954_441),
        variants=VARIANTS,
        gate=Gate(0.5, "top1", True, "openvino-int8 loses 0.20 points of top1; 0.5 allowed"),
        tried=(
            Refusal("tensorrt-fp16", "tensorrt is not installed"),
            Refusal("tensorrt-int8", "tensorrt is not installed"),
        ),
        data="measured on 500 samples of pictures",
        findings=(
            Finding("warning", "calibration pictures are darker", "use others", ("Conv_1",)),
            Finding("info", "66 of 68 nodes remain"),
        ),
        trials=(
            Trial("openvino-int8", "ranges by DEFAULT", 1.4, 18.2, False, 8.12),
            Trial("openvino-int8", "3 nodes in float", 0.2, 35.1, True, 20.9),
        ),
        layers={"openvino-int8": errors(44, 1.5), "openvino-bf16": errors(60, 1.0)},
        disagreements=disagreements(),
        memory=memory(),
        provenance=Provenance(
            "edge 0.1",
            "2026-01-02T03:04:05Z",
            MACHINE,
            {"onnx": "1.20", "nncf": "3.0"},
            "squeezenet1.1.onnx",
            {"calibration": "9f" * 32},
            {"precision": "auto", "engines": ""},
        ),
    )


@pytest.fixture(scope="session")
def bare() -> Report:
    """Nothing could be made."""
    return Report(
        schema=SCHEMA,
        model=ModelIdentity("model", "1", "00" * 32),
        profile="host",
        source=SourceRow(None, Latency(0, 0), 0),
        variants=(),
        gate=Gate(1.0, "agreement", False, "nothing was made"),
        tried=(),
        data="",
    )


def with_every_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        changed = {key: with_every_text(item, change) for key, item in value.items()}
        return changed if "severity" not in value else {**changed, "severity": value["severity"]}
    if isinstance(value, list):
        return [with_every_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


@pytest.fixture(scope="session")
def tainted(report: Report) -> Callable[[str], Report]:
    """The report with a text added to all of its own, also to the names in its mappings."""

    def taint(text: str) -> Report:
        said = with_every_text(msgspec.to_builtins(report), lambda own: own + text)
        for key in ("tools", "data", "options"):
            own = said["provenance"][key]
            said["provenance"][key] = {name + text: value for name, value in own.items()}
        said["layers"] = {name + text: errors for name, errors in said["layers"].items()}
        for row in said["variants"]:
            row["placement"] = {name + text: share for name, share in row["placement"].items()}
        return msgspec.convert(said, Report)

    return taint


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text within the elements of a name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [
            value or "" for _, own in self.elements for key, value in own.items() if key == name
        ]


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Page]:
    """Parses a page, and fails if its elements are not balanced."""
    return Page

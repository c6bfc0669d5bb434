"""The page as a document: what is in it, and that nothing in a report can change what it does."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.conversion.page import SECTIONS, render
from edge.conversion.report import Disagreement, Report

HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&{{ 7*7 }}"


def test_sections_come_in_order(report: Report, read_page: Any) -> None:
    page = read_page(render(report))
    assert [own["id"] for tag, own in page.elements if tag == "section"] == [
        name for name, _ in SECTIONS
    ]
    assert page.attributes("href") == [f"#{name}" for name, _ in SECTIONS]


def test_page_shows_what_the_report_holds(report: Report, read_page: Any) -> None:
    text = " ".join(read_page(render(report)).texts["body"])
    for words in (
        "tensorrt-fp16, tensorrt-int8: tensorrt is not installed",
        "3 nodes in float",
        "calibration pictures are darker",
        "great white shark",
        "/features/40/Conv_output_0",
        "CUDAExecutionProvider 90.00\N{NO-BREAK SPACE}%",
        "12.3\N{NO-BREAK SPACE}mJ",
        "2026-01-02T03:04:05Z",
        report.model.sha256,
    ):
        assert words in text, words


def test_equal_reports_give_equal_pages(report: Report) -> None:
    said = msgspec.to_builtins(report)
    for key in ("tools", "data", "options"):
        said["provenance"][key] = dict(reversed(said["provenance"][key].items()))
    said["layers"] = dict(reversed(said["layers"].items()))
    assert render(msgspec.convert(said, Report)) == render(report)


def test_markup_in_a_report_stays_text(report: Report, tainted: Any, read_page: Any) -> None:
    clean, page = read_page(render(report)), read_page(render(tainted(HOSTILE)))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements}
    assert page.texts["script"] == clean.texts["script"]
    assert page.texts["style"] == clean.texts["style"]
    assert not [name for _, own in page.elements for name in own if name.startswith("on")]
    assert f"squeezenet1.1{HOSTILE}" in page.texts["h1"][0] + page.texts["header"][0]


@settings(max_examples=25)
@given(text=st.text(max_size=8))
def test_any_text_leaves_the_page_balanced(tainted: Any, read_page: Any, text: str) -> None:
    page = read_page(render(tainted(text)))
    assert len(page.texts["script"]) == 1
    assert len(page.texts["section"]) == len(SECTIONS)


def test_page_refers_to_nothing_outside_itself(report: Report, read_page: Any) -> None:
    page = render(report)
    assert re.findall(r"http\S*", page) == ['http-equiv="Content-Security-Policy"']
    assert not re.search(r"url\(|@import|@font-face", page)
    sources = read_page(page).attributes("src")
    assert len(sources) == len(report.disagreements)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_policy_lets_the_pages_own_style_and_script_run(report: Report, read_page: Any) -> None:
    page = read_page(render(report))
    policy = page.attributes("content")[0]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        digest = hashlib.sha256(page.texts[tag][0].encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert not page.attributes("style"), "a style attribute has no digest in the policy"


@pytest.mark.parametrize(
    "thumbnail", ["javascript:alert(1)", "data:text/html;base64,AAAA", "//example.org/x.jpg", "x"]
)
def test_thumbnail_that_is_no_picture_is_left_out(
    report: Report, read_page: Any, thumbnail: str
) -> None:
    only = (Disagreement("a.jpg", "cat", "dog", thumbnail),)
    page = read_page(render(msgspec.structs.replace(report, disagreements=only)))
    assert not page.attributes("src")
    assert "cat → dog a.jpg" in page.texts["main"][0]


def test_bare_report_says_what_is_missing(bare: Report, read_page: Any) -> None:
    page = read_page(render(bare))
    assert "Nothing was chosen for host" in page.texts["h1"][0]
    assert len(page.texts["section"]) == len(SECTIONS)
    assert all(text.strip() for text in page.texts["section"])
    assert "svg" not in page.texts


@pytest.mark.parametrize(
    ("agreement", "words"),
    [(1.0, "as the source does on every sample"), (0.97, "97.00"), (None, "No answers")],
)
def test_page_without_disagreements_says_why(
    report: Report, read_page: Any, agreement: float | None, words: str
) -> None:
    row = msgspec.structs.replace(report.variants[0], agreement=agreement)
    alike = msgspec.structs.replace(report, variants=(row,), disagreements=())
    page = read_page(render(alike))
    assert any(words in text for text in page.texts["p"])


def test_every_plot_and_picture_has_words(report: Report, read_page: Any) -> None:
    page = read_page(render(report))
    plots = [own for tag, own in page.elements if tag == "svg" and own.get("role") == "img"]
    assert len(plots) == 6, "three plots in two widths"
    assert all(own.get("aria-label") for own in plots)
    assert all(
        own.get("aria-hidden") for tag, own in page.elements if tag == "svg" and own not in plots
    )
    assert all(own.get("alt") for tag, own in page.elements if tag == "img")
    assert all(own.get("scope") for tag, own in page.elements if tag == "th")

"""The page in a real browser that has no network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge.conversion.page import SECTIONS, render
from edge.conversion.report import Report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# What Chromium needs to start as root, and to leave the network alone.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
CONTRASTS = """elements => elements.map((element) => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => {
      v /= 255;
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element, paper;
  do { paper = getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }
  while (paper === "rgba(0, 0, 0, 0)" && behind);
  const [low, high] = [getComputedStyle(element).color, paper].map(luminance).sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
})"""
ESCAPED_LABELS = """() => [...document.querySelectorAll("svg.plot")].flatMap((plot) => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
  }).map((text) => text.textContent);
})"""

Opened = Callable[..., AbstractContextManager["Page"]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs the package playwright (extra: dev)"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs the program chromium (Debian's package chromium)")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Opened:
    """Opens a report's page from a file; fails if it says an error or asks for anything else."""

    @contextmanager
    def open_page(report: Report, width: int = 1280, **options: Any) -> Iterator[Page]:
        path = tmp_path / "report.html"
        path.write_text(render(report), encoding="utf-8")
        faults: list[str] = []
        context = browser.new_context(
            viewport={"width": width, "height": 800}, offline=True, **options
        )
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on(
            "request",
            lambda request: (
                None
                if request.url == path.as_uri() or request.url.startswith("data:")
                else faults.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        yield page
        context.close()
        assert not faults

    return open_page


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_page_never_scrolls_sideways(opened: Opened, report: Report, width: int) -> None:
    with opened(report, width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("document.body.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1280])
def test_all_sections_and_plots_are_seen(opened: Opened, report: Report, width: int) -> None:
    with opened(report, width) as page:
        for name, title in SECTIONS:
            assert page.locator(f"#{name}").is_visible()
            assert title in page.locator(f"#{name} h2").inner_text()
        plots = page.locator("svg.plot:visible")
        assert plots.count() == 3
        for plot in plots.all():
            box = plot.bounding_box()
            assert box
            assert box["width"] > 300
            assert box["height"] > 200
        assert page.evaluate(ESCAPED_LABELS) == []


def test_pictures_are_shown(opened: Opened, report: Report) -> None:
    with opened(report) as page:
        widths = page.eval_on_selector_all("img", "all => all.map((one) => one.naturalWidth)")
        assert widths == [128] * len(report.disagreements)


def test_wide_table_scrolls_in_its_own_box_on_a_phone(opened: Opened, report: Report) -> None:
    with opened(report, 360) as page:
        box = page.locator("#variants .scroll")
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")
        assert box.evaluate("box => (box.scrollLeft = 200, box.scrollLeft)") == 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened: Opened, report: Report, scheme: str) -> None:
    places = (
        "h1, p, td, th, dt, dd, .tag, .note, figcaption, nav a, .cautions li, .remark, .legend li"
    )
    with opened(report, color_scheme=scheme) as page:
        contrasts = page.eval_on_selector_all(places, CONTRASTS)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        is_dark = int(ground.partition("(")[2].partition(",")[0]) < 128
    assert is_dark == (scheme == "dark")
    assert len(contrasts) > 100
    assert min(contrasts) >= 4.5


def test_headers_of_the_variants_sort_them(opened: Opened, report: Report) -> None:
    names = "rows => rows.map((row) => row.cells[0].dataset.value)"
    given = [row.id for row in report.variants]
    by_time = sorted(report.variants, key=lambda row: row.latency_ms.p50 if row.latency_ms else 0)
    with opened(report) as page:
        rows, header = "#variants tbody tr", page.get_by_role("button", name="p50, ms")
        assert page.eval_on_selector_all(rows, names) == given
        header.click()
        assert page.eval_on_selector_all(rows, names) == [row.id for row in by_time]
        assert page.locator("th[aria-sort=ascending]").count() == 1
        header.click()
        assert page.eval_on_selector_all(rows, names)[0] == by_time[-1].id
        header.click()
        assert page.eval_on_selector_all(rows, names) == given


def test_page_is_whole_without_scripts(opened: Opened, report: Report) -> None:
    with opened(report, java_script_enabled=False) as page:
        assert page.locator("#variants tbody tr").count() == len(report.variants)
        assert page.locator("svg.plot:visible").count() == 3
        assert page.locator("thead button").count() == 0


def test_markup_in_a_report_does_nothing(opened: Opened, tainted: Callable[[str], Report]) -> None:
    with opened(tainted(HOSTILE), 360) as page:
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert HOSTILE in page.locator("header").inner_text()


def test_bare_report_is_shown(opened: Opened, bare: Report) -> None:
    with opened(bare, 360) as page:
        assert page.locator("section:visible").count() == len(SECTIONS)
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_printed_page_keeps_its_tables_whole(opened: Opened, report: Report) -> None:
    with opened(report, 718) as page:  # A4 within margins of a centimetre
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= 718
        assert page.locator("svg.plot.wide:visible").count() == 3
        assert page.pdf(format="A4").startswith(b"%PDF")

"""The first lines of the page: what came of the conversion, for one who reads no further."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edge.conversion.page.figures import (
    chosen_row,
    digits,
    loss,
    ms_text,
    ratio_text,
    signed,
    size_text,
    two_places,
)
from edge.conversion.report import Report, VariantRow

SLOWER = 1.05
"""Medians nearer to each other than this are taken for equal."""


MOST_WARNINGS = 3


class Fact(msgspec.Struct, frozen=True):
    """One large figure, what it is, and how it came about."""

    title: str
    figure: str
    detail: str
    look: str = ""


class Summary(msgspec.Struct, frozen=True):
    headline: str
    sentences: tuple[str, ...]
    cautions: tuple[str, ...]
    facts: tuple[Fact, ...]
    is_good: bool


def summarize(report: Report) -> Summary:
    chosen = chosen_row(report)
    if chosen is None:
        return Summary(
            f"Nothing was chosen for {report.profile}",
            (_converted(report), f"The gate: {report.gate.why}."),
            (),
            (),
            is_good=False,
        )
    sentences = (
        f"{_converted(report)} {_choice(report, chosen)}",
        " ".join(_gains(report, chosen)),
        " ".join(_accuracy(report, chosen)),
    )
    return Summary(
        _headline(report, chosen),
        tuple(sentence for sentence in sentences if sentence),
        tuple(_cautions(report, chosen)),
        tuple(_facts(report, chosen)),
        is_good=report.gate.met,
    )


def _converted(report: Report) -> str:
    count = len(report.variants)
    variants = f"{count} variants were" if count != 1 else "One variant was"
    return f"{report.model.name} was converted for {report.profile}. {variants} made and measured."


def _choice(report: Report, chosen: VariantRow) -> str:
    name = f"{chosen.precision.upper()} on {chosen.engine} ({chosen.id}) is chosen"
    others = [row.id for row in report.variants if row.in_bundle and row is not chosen]
    if not others:
        return f"{name}."
    return f"{name}; the bundle also holds {', '.join(others)} for other engines."


def _headline(report: Report, chosen: VariantRow) -> str:
    precision = chosen.precision.upper()
    if not report.gate.met:
        return f"Not good enough: {precision} loses more {report.gate.measure} than allowed"
    if chosen.precision == "fp32":
        return "Stay with FP32: nothing smaller is both accurate and fast enough"
    speed = chosen.speedup
    if speed is None:
        return f"{precision} keeps the accuracy that was asked for"
    if speed >= SLOWER:
        return f"{precision} is {_times(speed)} as fast and keeps the accuracy asked for"
    if speed * SLOWER >= 1:
        return f"{precision} keeps the accuracy asked for, at the same speed"
    return f"{precision} keeps the accuracy asked for, but is slower than the source"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times"


def _gains(report: Report, chosen: VariantRow) -> Iterable[str]:
    source, latency = report.source, chosen.latency_ms
    if latency is not None and chosen.speedup is not None:
        is_faster = chosen.speedup >= 1
        speed = f"{ratio_text(chosen.speedup)} the source's speed"
        before = ms_text(source.latency_ms.p50)
        yield (
            f"An inference takes {ms_text(latency.p50)} instead of {before} "
            f"(median, one at a time): {speed if is_faster else f'slower, {speed}'}."
        )
    if chosen.size_bytes and source.size_bytes:
        before, after = size_text(source.size_bytes), size_text(chosen.size_bytes)
        ratio = chosen.size_bytes / source.size_bytes
        if SLOWER > ratio > 1 / SLOWER:
            yield f"The file keeps its size of {after}."
        else:
            verb = "shrinks" if ratio < 1 else "grows"
            yield f"The file {verb} from {before} to {after}."


def _accuracy(report: Report, chosen: VariantRow) -> Iterable[str]:
    gate, lost = report.gate, loss(report, chosen)
    allowed = f"{gate.max_drop:g} may be lost"
    if lost is None:
        yield f"Its accuracy was not measured; {allowed}."
    elif gate.measure == "agreement":
        yield (
            f"It answers as the source does in {digits(100 - lost)} % of the cases: "
            f"{two_places(lost)} points lost, {allowed}."
        )
    elif lost == 0:
        yield f"It keeps all of the source's {gate.measure}; {allowed}."
    else:
        verb = "loses" if lost > 0 else "gains"
        yield f"It {verb} {two_places(abs(lost))} points of {gate.measure}; {allowed}."
    if gate.met:
        yield "The gate is met: by this data it can take the source's place."
    else:
        yield "The gate is not met: use it only if that loss is acceptable."
    where = f", on {chosen.measured_on}" if chosen.measured_on else ""
    if report.data or where:
        yield f"{report.data[:1].upper()}{report.data[1:]}{where}.".lstrip(",. ")


def _cautions(report: Report, chosen: VariantRow) -> Iterable[str]:
    slower = list(_slower(report))
    if slower:
        yield f"The smaller precision is slower here: {'; '.join(slower)}."
    if report.profile != "host" and chosen.measured_on:
        yield (
            f"Times are those of the machine that converted ({chosen.measured_on}), "
            f"not of {report.profile}."
        )
    warnings = [finding.message for finding in report.findings if finding.severity != "info"]
    for message in warnings[:MOST_WARNINGS]:
        yield f"Warning: {message}."
    if len(warnings) > MOST_WARNINGS:
        yield f"{len(warnings) - MOST_WARNINGS} more warnings stand among the findings."


def _slower(report: Report) -> Iterable[str]:
    """Variants that take longer than the same engine in FP32, or than the source without one."""
    for row in report.variants:
        if row.precision == "fp32" or row.latency_ms is None:
            continue
        own = next(
            (
                other.latency_ms.p50
                for other in report.variants
                if other.engine == row.engine and other.precision == "fp32" and other.latency_ms
            ),
            None,
        )
        base = report.source.latency_ms.p50 if own is None else own
        if row.latency_ms.p50 > base * SLOWER:
            whose = "the source" if own is None else "FP32"
            yield (
                f"{row.precision.upper()} on {row.engine} takes {ms_text(row.latency_ms.p50)}, "
                f"{whose} {ms_text(base)}"
            )


def _facts(report: Report, chosen: VariantRow) -> Iterable[Fact]:
    source = report.source
    if chosen.speedup is not None and chosen.latency_ms is not None:
        times = f"{ms_text(source.latency_ms.p50)} → {ms_text(chosen.latency_ms.p50)}"
        yield Fact("Speed", ratio_text(chosen.speedup), times)
    if chosen.size_bytes:
        ratio = chosen.size_bytes / source.size_bytes if source.size_bytes else 0
        sizes = f"{size_text(source.size_bytes)} → {size_text(chosen.size_bytes)}"
        yield Fact("Size", f"{100 * ratio:.0f} %" if ratio else size_text(chosen.size_bytes), sizes)
    lost = loss(report, chosen)
    if lost is not None:
        allowed = f"points; {report.gate.max_drop:g} may be lost"
        yield Fact(report.gate.measure, signed(-lost), allowed)
    word, look = ("met", "met") if report.gate.met else ("not met", "missed")
    yield Fact("Gate", word, report.gate.why, look)

"""The first lines of the page: what came of the conversion, for one who reads no further."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edge.conversion.page.figures import (
    chosen_row,
    loss,
    ms_text,
    percent_text,
    points_text,
    ratio_text,
    signed,
    size_text,
    two_places,
)
from edge.conversion.report import Report, VariantRow

SLOWER = 1.05
"""Figures nearer to each other than this factor are taken for equal."""


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
    made = {0: "No variant was", 1: "One variant was"}.get(count, f"{count} variants were")
    return f"{report.model.name} was converted for {report.profile}. {made} made and measured."


def _choice(report: Report, chosen: VariantRow) -> str:
    text = f"{chosen.precision.upper()} on {chosen.engine} ({chosen.id}) is chosen"
    others = [row.id for row in report.variants if row.in_bundle and row is not chosen]
    if others:
        text += f"; the bundle also holds {', '.join(others)}"
    return f"{text}.{_why_fp32(report, chosen)}"


def _why_fp32(report: Report, chosen: VariantRow) -> str:
    """What became of the smaller precisions when none of them was chosen."""
    smaller = [row for row in report.variants if row.precision != "fp32"]
    if chosen.precision != "fp32" or not smaller or chosen.latency_ms is None:
        return ""
    bound, fastest = report.gate.max_drop, chosen.latency_ms.p50
    kept = [row for row in smaller if (lost := loss(report, row)) is not None and lost <= bound]
    slower = [row for row in kept if row.latency_ms and row.latency_ms.p50 > fastest]
    counts = {"too inaccurate": len(smaller) - len(kept), "accurate but slower": len(slower)}
    found = "; ".join(f"{what}: {count}" for what, count in counts.items() if count)
    return f" Of the variants in other precisions, {found}." if found else ""


def _headline(report: Report, chosen: VariantRow) -> str:
    precision, speed = chosen.precision.upper(), chosen.speedup
    if not report.gate.met:
        return _missed(report, chosen)
    is_faster = speed is not None and speed >= SLOWER
    if chosen.precision == "fp32" and any(row.precision != "fp32" for row in report.variants):
        gain = f", {_times(speed)} as fast as the source" if speed and is_faster else ""
        return f"Stay with FP32{gain}: no smaller precision does better"
    if speed is None:
        return f"{precision} keeps the accuracy that was asked for"
    if is_faster:
        return f"{precision} is {_times(speed)} as fast and keeps the accuracy asked for"
    end = ", at the same speed" if speed * SLOWER >= 1 else ", but is slower than the source"
    return f"{precision} keeps the accuracy asked for{end}"


def _missed(report: Report, chosen: VariantRow) -> str:
    precision, lost = chosen.precision.upper(), loss(report, chosen)
    if lost is None:
        return f"Not proven: the accuracy of {precision} was not measured"
    if lost <= report.gate.max_drop:
        return "Not good enough: a variant in the bundle loses more than allowed"
    return f"Not good enough: {precision} loses more {report.gate.measure} than allowed"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times"


def _gains(report: Report, chosen: VariantRow) -> Iterable[str]:
    source, latency = report.source, chosen.latency_ms
    if latency is not None and chosen.speedup is not None:
        speed = f"{ratio_text(chosen.speedup)} the source's speed"
        if SLOWER > chosen.speedup > 1 / SLOWER:
            speed = "about as fast"
        elif chosen.speedup < 1:
            speed = f"slower, {speed}"
        before = ms_text(source.latency_ms.p50)
        yield (
            f"An inference takes {ms_text(latency.p50)} instead of {before} "
            f"(median, one at a time): {speed}."
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
    allowed = f"{points_text(gate.max_drop)} may be lost"
    if lost is None:
        yield f"Its accuracy was not measured; {allowed}."
    elif gate.measure == "agreement":
        share = "all cases" if lost == 0 else f"{percent_text(1 - lost / 100)} of the cases"
        yield f"It answers as the source does in {share}; {allowed}."
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
    slower: dict[str, list[str]] = {}
    for row in report.variants:
        slower.setdefault(row.precision, []).extend(_slower(report, row))
    for precision, times in slower.items():
        if times:
            yield f"{precision.upper()}: the smaller precision is slower here. {'; '.join(times)}."
    if report.profile != "host" and chosen.measured_on:
        yield (
            f"Times are those of the machine that converted ({chosen.measured_on}), "
            f"not of {report.profile}."
        )
    warnings = [finding.message for finding in report.findings if finding.severity != "info"]
    for message in warnings[:MOST_WARNINGS]:
        yield f"Warning: {message.rstrip('.')}."
    if len(warnings) > MOST_WARNINGS:
        yield f"{len(warnings) - MOST_WARNINGS} more warnings stand among the findings."


def _slower(report: Report, row: VariantRow) -> Iterable[str]:
    """That ``row`` takes longer than its engine in FP32, or than the source if there is none."""
    if row.precision == "fp32" or row.latency_ms is None:
        return
    own = [
        other.latency_ms.p50
        for other in report.variants
        if other.engine == row.engine and other.precision == "fp32" and other.latency_ms
    ]
    base, whose = (own[0], "FP32") if own else (report.source.latency_ms.p50, "the source")
    if row.latency_ms.p50 > base * SLOWER:
        took = ms_text(row.latency_ms.p50)
        yield f"On {row.engine} it takes {took}, {whose} {ms_text(base)}"


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

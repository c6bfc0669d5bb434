"""What the page's tables hold beyond the rows of the report."""

from __future__ import annotations

import re
from collections import Counter

import msgspec

from edge.conversion.page import svg
from edge.conversion.page.figures import chosen_row, percent_text
from edge.conversion.report import Disagreement, Report

MOST_PAIRS = 12
MOST_PICTURES = 60
THUMBNAIL = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}")


class Pair(msgspec.Struct, frozen=True):
    """How often the source said ``expected`` and the chosen variant ``got``."""

    expected: str
    got: str
    count: int
    bar: str


class Disagreements(msgspec.Struct, frozen=True):
    """The most frequent pairs and the first pictures; ``hidden`` counts what is left out."""

    count: int
    pairs: tuple[Pair, ...]
    hidden_pairs: int
    pictures: tuple[Disagreement, ...]
    hidden_pictures: int


class Placed(msgspec.Struct, frozen=True):
    """Where the nodes of one variant run."""

    variant: str
    engine: str
    bar: str
    words: str
    chosen: bool


class Reason(msgspec.Struct, frozen=True):
    why: str
    ids: tuple[str, ...]


def disagreements(report: Report) -> Disagreements:
    counts = Counter((item.expected, item.got) for item in report.disagreements)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    largest = most[0][1] if most else 1
    pairs = tuple(
        Pair(expected, got, count, svg.bar([count / largest], ["c0"]))
        for (expected, got), count in most[:MOST_PAIRS]
    )
    shown = tuple(
        item if THUMBNAIL.fullmatch(item.thumbnail) else msgspec.structs.replace(item, thumbnail="")
        for item in report.disagreements[:MOST_PICTURES]
    )
    total = len(report.disagreements)
    return Disagreements(total, pairs, len(most) - len(pairs), shown, total - len(shown))


def no_disagreement(report: Report) -> str:
    """Why there are none to show."""
    chosen = chosen_row(report)
    if chosen is None or chosen.agreement is None:
        return "No answers were compared."
    if chosen.agreement == 1.0:
        return "The chosen variant answers as the source does on every sample."
    share = percent_text(chosen.agreement)
    return f"It agrees with the source on {share}; single samples are listed for classes only."


def placements(report: Report) -> list[Placed]:
    devices = sorted({device for row in report.variants for device in row.placement})
    colour = {device: f"c{number % 6}" for number, device in enumerate(devices)}
    rows = []
    for row in report.variants:
        if not row.placement:
            continue
        shares = sorted(row.placement.items(), key=lambda item: (-item[1], item[0]))
        bar = svg.bar([share for _, share in shares], [colour[name] for name, _ in shares])
        rows.append(Placed(row.id, row.engine, bar, placement_words(row.placement), row.chosen))
    return rows


def placement_words(placement: dict[str, float]) -> str:
    shares = sorted(placement.items(), key=lambda item: (-item[1], item[0]))
    if len(shares) == 1 and shares[0][1] >= 1:
        return shares[0][0]
    return ", ".join(f"{name} {percent_text(share)}" for name, share in shares)


def reasons(report: Report) -> list[Reason]:
    """Refusals by their reason, in the order in which these came up."""
    by_reason: dict[str, list[str]] = {}
    for refusal in report.tried:
        by_reason.setdefault(refusal.why, []).append(refusal.id)
    return [Reason(why, tuple(ids)) for why, ids in by_reason.items()]

"""``edge check``: what a device will say to a model and what it costs there, before any work."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.cli import _arguments, _output

if TYPE_CHECKING:
    from edge.conversion.checking import CheckReport, EngineCheck, ProfileCheck
    from edge.conversion.estimates import PrecisionEstimate
    from edge.conversion.roofline import LatencyEstimate
    from edge.core.contracts import Finding

HELP = "check a model against devices: operators, shapes, memory, about how fast"

_SHOWN_NODES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.add_source(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    from edge.cli._main import EXIT_DONE, EXIT_USAGE
    from edge.conversion.cache import StageCache
    from edge.conversion.checking import check
    from edge.conversion.sources import as_file
    from edge.core.profile import load_profile

    profiles = [load_profile(name) for name in dict.fromkeys(args.profiles or ["host"])]
    with tempfile.TemporaryDirectory(prefix="edge-check-") as work:
        report = check(
            as_file(args.source, profiles[0], Path(work), StageCache()),
            profiles,
            Path(work),
            shapes=dict(args.shape),
            batch=args.batch,
        )
    report = msgspec.structs.replace(report, model=Path(args.source).name)
    if args.json:
        _output.print_json(report)
    else:
        _print(report)
    return EXIT_DONE if any(found.takes for found in report.profiles) else EXIT_USAGE


def _print(report: CheckReport) -> None:
    costs = report.costs
    size = _output.size_text(report.size_bytes)
    _output.say()
    _output.title(report.model, f"{size}, opset {report.opset}, IR {report.ir}")
    assumed = ", ".join(f"{axis} = {size}" for axis, size in costs.assumed.items())
    least = "at least " if costs.unknown else ""
    _output.facts(
        [
            ("takes", ", ".join(f"{spec.name} {spec.shape_text}" for spec in report.inputs)),
            ("parameters", f"{costs.parameters:,}"),
            ("operations", f"{least}{_count(costs.flops)}FLOP an inference; a multiply-add is 2"),
            ("assumed", f"{assumed}; give --shape to fix it" if assumed else ""),
            ("not counted", _unknown(costs.unknown)),
        ]
    )
    for found in report.profiles:
        _print_profile(found)


def _count(number: float) -> str:
    """``612 M``: three significant digits and the SI prefix."""
    return _output.size_text(number)[:-1] if number >= 999.5 else f"{number:.0f} "


def _unknown(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN_NODES])
    return f"{len(names)} values of unknown size, such as {shown}" if names else ""


def _print_profile(found: ProfileCheck) -> None:
    _output.say()
    _output.title(found.profile, found.title)
    for engine in found.engines:
        _print_engine(engine)
    if found.opset:
        accepted = f"takes up to {found.accepted.opset} and {found.accepted.ir}"
        _output.facts([("given", f"opset {found.opset}, IR {found.ir}; {accepted}")])
    if found.estimates:
        rows = [_row(estimate, found.memory_bytes) for estimate in found.estimates]
        columns = [name for name in rows[0] if any(row[name] for row in rows)]
        cells = [[row[name] for name in columns] for row in rows]
        _output.say()
        _output.table("", columns, cells, right=columns[1:])
        _output.facts(_notes(found))


def _print_engine(engine: EngineCheck) -> None:
    verdict = "[green]✓ yes[/]" if engine.takes else "[red]✗ no[/] "
    precisions = f"  [dim]{', '.join(engine.precisions)}[/]" if engine.takes else ""
    _output.say(f"{verdict}  {engine.engine}{precisions}")
    _output.facts(row for finding in engine.findings for row in _rows(finding))


def _rows(finding: Finding) -> list[tuple[str, str]]:
    nodes = ", ".join(finding.nodes[:_SHOWN_NODES])
    more = f" and {len(finding.nodes) - _SHOWN_NODES} more"
    where = f": {nodes}{more if len(finding.nodes) > _SHOWN_NODES else ''}" if nodes else ""
    return [(f"  {finding.severity}", finding.message + where), ("  hint", finding.hint)]


def _row(estimate: PrecisionEstimate, room: int) -> dict[str, str]:
    """Cells by heading."""
    from edge.conversion.memory import LARGEST_BATCH

    batch = estimate.largest_batch
    return {
        "estimate": estimate.precision,
        "weights": _output.size_text(estimate.weight_bytes),
        "moved": _output.size_text(estimate.moved_bytes),
        "peak memory": _output.size_text(estimate.peak_bytes),
        "share": _output.percent_text(estimate.peak_bytes / room) if room else "",
        "batch": "" if batch is None else f"{batch}{'+' if batch == LARGEST_BATCH else ''}",
        "latency": _latency(estimate.latencies[0]),
    }


def _latency(estimate: LatencyEstimate) -> str:
    if estimate.ms is None:
        return "unknown"
    bound = "" if estimate.basis == "roofline" else "≥ "
    return f"{bound}{_output.ms_text(estimate.ms)} {estimate.unit}".strip()


def _notes(found: ProfileCheck) -> Iterator[tuple[str, str]]:
    """What the figures stand for, and what the profile does not know."""
    yield "moved", "to and from memory in one inference, at best"
    yield "peak memory", _memory_note(found)
    if any(estimate.largest_batch is not None for estimate in found.estimates):
        yield "batch", "the largest power of two that fits"
    best = [(row.precision, row.latencies[0]) for row in found.estimates]
    if any(estimate.basis == "roofline" for _, estimate in best):
        yield "latency", "estimated, not measured: the roofline, what a perfect engine needs"
    for why in dict.fromkeys(estimate.why for _, estimate in best if estimate.why):
        of = [(name, estimate.basis) for name, estimate in best if estimate.why == why]
        bound = "" if of[0][1] == "unknown" else f", so ≥ is by {of[0][1]}"
        yield "unknown", f"{', '.join(name for name, _ in of)}: {why}{bound}"


def _memory_note(found: ProfileCheck) -> str:
    held = "weights and live tensors, without the engine's own"
    if not found.memory_bytes:
        return f"{held}; the profile does not say what the device has"
    kept = "" if found.is_system_known else ", which its system shares"
    return f"{held}; of {_output.size_text(found.memory_bytes)}{kept}"

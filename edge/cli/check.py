"""``edge check``: what a device will say to a model, before any work is done."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli import _arguments, _output

if TYPE_CHECKING:
    from edge.core.contracts import Finding

HELP = "check a model against a device: operators, opset, shapes"

_SHOWN_NODES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.add_source(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    from edge.cli._main import EXIT_DONE, EXIT_USAGE
    from edge.conversion.checking import check
    from edge.core.profile import load_profile

    with tempfile.TemporaryDirectory(prefix="edge-check-") as work:
        findings = check(
            args.source,
            load_profile(args.profile),
            Path(work),
            shapes=dict(args.shape),
            batch=args.batch,
        )
    if args.json:
        _output.print_json(findings)
    else:
        _print(args, findings)
    has_engine = any(not _has_error(found) for found in findings.values())
    return EXIT_DONE if has_engine else EXIT_USAGE


def _has_error(findings: list[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _print(args: argparse.Namespace, findings: dict[str, list[Finding]]) -> None:
    _output.title(f"{args.source.name} for {args.profile}")
    for engine, found in findings.items():
        verdict = "[red]✗ no[/]" if _has_error(found) else "[green]✓ yes[/]"
        _output.say(f"{verdict}  {engine}")
        _output.facts(row for finding in found for row in _rows(finding))


def _rows(finding: Finding) -> list[tuple[str, str]]:
    nodes = ", ".join(finding.nodes[:_SHOWN_NODES])
    more = f" and {len(finding.nodes) - _SHOWN_NODES} more"
    where = f": {nodes}{more if len(finding.nodes) > _SHOWN_NODES else ''}" if nodes else ""
    return [(f"  {finding.severity}", finding.message + where), ("  hint", finding.hint)]

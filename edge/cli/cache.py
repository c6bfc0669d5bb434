"""``edge cache``: what is kept of conversions, and how to get rid of it."""

from __future__ import annotations

import argparse

from edge.cli import _output

HELP = "show or clear what is kept of earlier conversions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear", action="store_true", help="delete all of it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from edge.cli._main import EXIT_DONE
    from edge.conversion.cache import StageCache

    cache = StageCache()
    usage = cache.usage()
    total = sum(stage.size_bytes for stage in usage)
    if args.clear:
        cache.clear()
    if args.json:
        _output.print_json({"folder": str(cache.root), "cleared": args.clear, "stages": usage})
        return EXIT_DONE
    if usage:
        _output.table(
            "Kept of earlier conversions",
            ["stage", "results", "size"],
            [(u.stage, u.entries, _output.size_text(u.size_bytes)) for u in usage],
            right=["results", "size"],
        )
    verb = "cleared" if args.clear else "in all"
    _output.facts([("folder", cache.root), (verb, _output.size_text(total))])
    return EXIT_DONE

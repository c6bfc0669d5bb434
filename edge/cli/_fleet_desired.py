"""``edge fleet desired``: which versions devices are to serve, also those that are away."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from edge.cli import _output
from edge.cli._arguments import duration
from edge.cli._fleet_connection import add_devices, check_devices, chosen, operating
from edge.core.errors import InputError

HELP = "say which versions devices are to serve; a device that is away learns it when it is back"

_ENDS = ("converged", "failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="*", type=_pair, metavar="MODEL=VERSION", help="what is to serve"
    )
    add_devices(parser)
    parser.add_argument("--clear", action="store_true", help="ask nothing of them any more")
    parser.add_argument(
        "--timeout",
        type=duration,
        default=60.0,
        metavar="TIME",
        help="how long to look whether they get there (default: 60s)",
    )


def run(args: argparse.Namespace) -> int:
    from edge.cli import _main
    from edge.telemetry.topics import Topics

    if bool(args.models) == args.clear:
        raise InputError("what is desired?", hint="say MODEL=VERSION, or --clear")
    check_devices(args)
    rev = time.time_ns() // 1_000_000  # it has to rise, also from one operator to another
    models = {name: {"version": version} for name, version in args.models}
    desired = None if args.clear else {"rev": rev, "models": models}
    with operating(args) as operator:
        devices = chosen(operator, args)
        for device in devices:
            operator.desire(Topics(args.fleet, device), desired)
        if not operator.flush(args.timeout):
            print("the broker did not take it all in time", file=sys.stderr)
            return _main.EXIT_UNAVAILABLE
        if args.clear:
            return _main.EXIT_DONE
        ends: dict[str, Mapping[str, Any]] = {}
        deadline_s = time.monotonic() + args.timeout
        while len(ends) < len(devices) and time.monotonic() < deadline_s:
            operator.watch(0.2)
            for device in devices:
                board = operator.board.device(args.fleet, device)
                is_away = board.status.get("state") == "offline"
                if device not in ends and (is_away or _has_ended(board.reported, rev)):
                    ends[device] = {"state": "away"} if is_away else board.reported
    for device in devices:
        if device not in ends:
            ends[device] = _late(operator.board.device(args.fleet, device).reported, rev, args)
    return _report({device: ends[device] for device in devices}, args)


def _late(reported: Mapping[str, Any], rev: int, args: argparse.Namespace) -> Mapping[str, Any]:
    if reported.get("rev") == rev:
        return reported
    return {"state": "no end", "reason": f"no answer in {args.timeout:g} s"}


def _has_ended(reported: Mapping[str, Any], rev: int) -> bool:
    return bool(reported.get("refused")) or (
        reported.get("rev") == rev and reported.get("state") in _ENDS
    )


def _report(ends: dict[str, Mapping[str, Any]], args: argparse.Namespace) -> int:
    from edge.cli import _main
    from edge.telemetry.lines import printable

    if args.json:
        _output.print_json({"devices": ends})
    for device, end in ends.items() if not args.json else ():
        state = "refused" if end.get("refused") else str(end.get("state"))
        reason = end.get("refused") or end.get("reason") or ""
        mark = {"converged": "✓", "away": "·"}.get(state, "✗")
        print(printable(f"{mark} {device}  {state}{': ' if reason else ''}{reason}"))
    states = {end.get("state") for end in ends.values() if not end.get("refused")}
    is_done = all(not end.get("refused") for end in ends.values()) and states <= {"converged"}
    return _main.EXIT_DONE if is_done else _main.EXIT_GATE


def _pair(text: str) -> tuple[str, str]:
    name, _, version = text.partition("=")
    if not name or not version:
        raise argparse.ArgumentTypeError(f"{text!r} is not like digits=2")
    return name, version

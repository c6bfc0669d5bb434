"""``edge watch``: follow the telemetry of devices live."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edge.cli import _output
from edge.cli._brokers import named_brokers

if TYPE_CHECKING:
    from edge.telemetry.watcher import Arrival, Watcher

HELP = "follow the telemetry of devices live"

_REFRESH_S = 0.25
_FOOTER = "p50, p99: the engine alone, over the last interval · Ctrl-C ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mqtt", metavar="URL", help="the broker (default: edge.toml's)")
    parser.add_argument("--fleet", default="+", help="only this fleet (default: all)")
    parser.add_argument("--device", default="+", help="only this device (default: all)")
    parser.add_argument("--count", type=_positive(int), help="stop after so many messages")
    parser.add_argument("--seconds", type=_positive(float), help="stop after so many seconds")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each message")


def run(args: argparse.Namespace) -> int:
    from edge.cli import _main
    from edge.telemetry.watcher import Watcher

    with Watcher(named_brokers(args.mqtt, "watch"), args.fleet, args.device) as watcher:
        try:
            if args.json or not sys.stdout.isatty():
                _print_lines(_limited(watcher, args), is_json=args.json)
            else:
                _show(watcher, args)
        except KeyboardInterrupt:  # the usual way to end it
            return _main.EXIT_DONE
    return _main.EXIT_DONE


def _limited(watcher: Watcher, args: argparse.Namespace) -> Iterable[Arrival]:
    return itertools.islice(watcher.messages(args.seconds), args.count)


def _print_lines(arrivals: Iterable[Arrival], *, is_json: bool) -> None:
    from edge.telemetry.lines import json_line, plain_line

    line = json_line if is_json else plain_line
    for arrival in arrivals:
        print(line(arrival), flush=True)


def _show(watcher: Watcher, args: argparse.Namespace) -> None:
    """Redraw the board until a limit is reached; the last state stays on the screen."""
    from rich.live import Live

    from edge.telemetry import view
    from edge.telemetry.board import Board

    board = Board()
    end_s = time.monotonic() + (args.seconds or float("inf"))
    left = args.count or sys.maxsize
    with Live(console=_output.out(), auto_refresh=False) as live:
        while left > 0 and time.monotonic() < end_s:
            picture = view.render(
                board,
                now_s=time.monotonic(),
                source=str(watcher.address),
                error=watcher.error,
                footer=_FOOTER,
            )
            live.update(picture, refresh=True)
            for arrival in watcher.poll(_REFRESH_S)[:left]:
                board.add(arrival)
                left -= 1


def _positive(kind: type[int] | type[float]) -> type:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse  # type: ignore[return-value]

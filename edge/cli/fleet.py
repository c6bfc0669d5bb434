"""``edge fleet``: all devices at a glance; commands and new versions for them."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from edge.cli import _fleet_desired, _fleet_rollout, _fleet_send, _output
from edge.cli._arguments import duration
from edge.cli._fleet_connection import add_connection, connected

if TYPE_CHECKING:
    from edge.telemetry.board import Board
    from edge.telemetry.fleet.picture import DeviceSummary
    from edge.telemetry.watcher import Watcher

HELP = "see all devices, give them commands, roll a bundle out to them"

_REFRESH_S = 0.5
_LISTEN_S = 6.0  # a device tells its figures every 5 s, unless told otherwise
_BESIDE_TABLE = 6  # lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_listing(parser, is_main=True)
    parser.set_defaults(act=_list)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    listing = actions.add_parser("list", help="a line for each device (the default)")
    _add_listing(listing, is_main=False)
    listing.set_defaults(act=_list)
    modules = {"send": _fleet_send, "roll-out": _fleet_rollout, "desired": _fleet_desired}
    for name, module in modules.items():
        action = actions.add_parser(name, help=module.HELP, description=module.HELP)
        add_connection(action, is_main=False)
        module.add_arguments(action)
        action.set_defaults(act=module.run)


def run(args: argparse.Namespace) -> int:
    return int(args.act(args))


def _add_listing(parser: argparse.ArgumentParser, *, is_main: bool) -> None:
    """Options that may stand before or after ``list``."""
    add_connection(parser, is_main=is_main)

    def default(value: Any) -> Any:
        return value if is_main else argparse.SUPPRESS

    parser.add_argument(
        "--seconds",
        type=duration,
        default=default(_LISTEN_S),
        metavar="TIME",
        help="how long to listen (default: 6s)",
    )
    parser.add_argument(
        "--follow", action="store_true", default=default(False), help="go on until Ctrl-C"
    )


def _list(args: argparse.Namespace) -> int:
    from edge.cli import _main

    with connected(args) as watcher:
        try:
            devices = _follow(watcher, args) if args.follow else _listen(watcher, args)
        except KeyboardInterrupt:
            if not args.follow:
                raise  # nobody was listed yet
            return _main.EXIT_DONE
    _print(devices, args)
    return _main.EXIT_DONE if devices else _main.EXIT_UNAVAILABLE


def _listen(watcher: Watcher, args: argparse.Namespace) -> list[DeviceSummary]:
    from edge.telemetry.fleet.operator import Operator

    operator = Operator(watcher)
    with _output.err().status(f"listening for {args.seconds:g} s at {watcher.address} …"):
        operator.watch(args.seconds)
    return _selected(operator.board, args)


def _follow(watcher: Watcher, args: argparse.Namespace) -> NoReturn:
    """Redraw until Ctrl-C; in a pipe, print the table again each ``--seconds``."""
    from rich.live import Live

    from edge.telemetry.fleet.operator import Operator

    operator = Operator(watcher)
    if args.json or not sys.stdout.isatty():
        while True:
            operator.watch(args.seconds)
            _print(_selected(operator.board, args), args)
    console = _output.out()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            operator.watch(_REFRESH_S)
            most = max(1, console.size.height - _BESIDE_TABLE)
            picture = _picture(_selected(operator.board, args), watcher, most)
            live.update(picture, refresh=True)


def _picture(devices: list[DeviceSummary], watcher: Watcher, most: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    from edge.telemetry.fleet import table

    line = Text.assemble(("edge fleet", "bold"), (f"  {watcher.address}", "dim"))
    if watcher.error:
        line.append(f"  ✗ {watcher.error}", style="red")
    return Group(line, Text(table.heading(devices), "dim"), table.render(devices, most=most))


def _selected(board: Board, args: argparse.Namespace) -> list[DeviceSummary]:
    from edge.telemetry.fleet.picture import summarize

    return [
        device
        for device in summarize(board, time.monotonic())
        if fnmatch.fnmatchcase(device.device, args.select)
    ]


def _print(devices: list[DeviceSummary], args: argparse.Namespace) -> None:
    from edge.telemetry.fleet import table
    from edge.telemetry.fleet.picture import count_versions

    if args.json:
        summary = {"devices": devices, "versions": count_versions(devices)}
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
        sys.stdout.flush()
    elif devices:
        _output.title("edge fleet", table.heading(devices))
        _output.out().print(table.render(devices))
    else:
        print(
            f"no device of fleet {args.fleet} was heard in {args.seconds:g} s"
            if args.fleet != "+"
            else f"no device was heard in {args.seconds:g} s",
            file=sys.stderr,
        )

"""Which broker and which devices ``edge fleet`` is about, and the connection to them."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edge.cli import _output
from edge.cli._arguments import duration
from edge.cli._brokers import mqtt_settings, named_brokers
from edge.core.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from edge.telemetry.fleet.operator import Operator
    from edge.telemetry.watcher import Watcher


def add_connection(parser: argparse.ArgumentParser, *, is_main: bool) -> None:
    """Options of every action, which may stand before its name too."""

    def default(value: Any) -> Any:
        return value if is_main else argparse.SUPPRESS

    parser.add_argument(
        "--mqtt", metavar="URL", default=default(None), help="the broker (default: edge.toml's)"
    )
    parser.add_argument(
        "--fleet",
        default=default(""),
        help="only this fleet (default: all to see, edge.toml's to command)",
    )
    parser.add_argument(
        "--select",
        default=default("*"),
        metavar="GLOB",
        help="only devices of such a name, as in 'press-*'",
    )
    parser.add_argument(
        "--json", action="store_true", default=default(False), help="print JSON instead"
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """To whom something is said: nobody unless they are named."""
    parser.add_argument(
        "--device", action="append", default=[], help="to this one (repeatable), seen or not"
    )
    parser.add_argument("--all", action="store_true", help="to all of the fleet that are seen")
    parser.add_argument(
        "--seconds",
        type=duration,
        default=2.0,
        metavar="TIME",
        help="how long to look which devices there are (default: 2s)",
    )


@contextlib.contextmanager
def connected(args: argparse.Namespace, *more: str) -> Iterator[Watcher]:
    """A connection that sees the fleet, or all; ``more`` are further paths to subscribe to."""
    from edge.telemetry.watcher import Watcher

    brokers = named_brokers(args.mqtt, "fleet")
    args.fleet = args.fleet or "+"
    with Watcher(brokers, args.fleet, "+", *more) as watcher:
        yield watcher


@contextlib.contextmanager
def operating(args: argparse.Namespace) -> Iterator[Operator]:
    """An operator of one fleet, who has seen all that was retained."""
    from edge.telemetry.fleet.operator import COMMANDS, SETTLE_S, Operator

    args.fleet = args.fleet or mqtt_settings(args.mqtt, "fleet").fleet
    with connected(args, COMMANDS) as watcher:
        operator = Operator(watcher, min(SETTLE_S, args.seconds))
        with _output.err().status(f"looking at fleet {args.fleet} at {watcher.address} …"):
            operator.watch(args.seconds)
            while not operator.is_settled:
                operator.poll(0.1)
        yield operator


def check_devices(args: argparse.Namespace) -> None:
    """Raises ``InputError`` where nothing says which devices are meant."""
    if not args.device and not args.all and args.select == "*":
        raise InputError(
            "to which devices?", hint="name them with --device or --select, or say --all"
        )


def chosen(operator: Operator, args: argparse.Namespace) -> list[str]:
    """The devices that ``--device``, ``--select`` or ``--all`` name.

    Raises:
        UnavailableError: None of them was seen.
    """
    devices = args.device or selected(operator, args)
    if not devices:
        raise UnavailableError(
            f"no device of fleet {args.fleet} was seen that {args.select!r} names",
            hint="edge fleet shows which there are",
        )
    return list(devices)


def selected(operator: Operator, args: argparse.Namespace) -> list[str]:
    """Names of the devices that were seen and are meant."""
    return sorted(
        device
        for fleet, device in operator.board.devices
        if fleet == args.fleet and fnmatch.fnmatchcase(device, args.select)
    )

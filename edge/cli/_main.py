"""Finds the subcommand, runs it, and maps errors to exit codes."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from edge import __version__
from edge.core import errors, plugins

EXIT_DONE, EXIT_GATE, EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_DEFECT = range(5)
EXIT_INTERRUPTED = 130

_UNAVAILABLE = (errors.UnavailableError, errors.EngineError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``edge`` with ``argv`` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse exits by itself: 0 after --help, 2 on wrong usage
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    if args.is_daemon and not args.debug:  # its log says what was done to it
        logging.getLogger("edge").setLevel(logging.INFO)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader went away, as in `edge profiles | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except errors.EdgeError as error:
        if args.debug:
            traceback.print_exc()
        _complain(str(error), error.hint)
        return EXIT_UNAVAILABLE if isinstance(error, _UNAVAILABLE) else EXIT_USAGE
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        _complain(
            f"{type(error).__name__}: {error}",
            "this is a defect of edge; run it again with --debug and report what it prints",
        )
        return EXIT_DEFECT


def _complain(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edge", description="Inference at the edge, measured.")
    parser.add_argument("--version", action="version", version=f"edge {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    names = plugins.stems("edge.cli")
    # Only the command that is typed gets imported: a device starts `edge serve` in well under 1 s.
    typed = [name for name in names if name in arguments[:1]]
    for name in typed or names:
        module = importlib.import_module(f"edge.cli.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        command.add_argument("--debug", action="store_true", help="show tracebacks and debug logs")
        command.set_defaults(run=module.run, is_daemon=False)
        module.add_arguments(command)
    return parser

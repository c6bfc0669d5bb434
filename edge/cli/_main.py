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
    is_debugged = "--debug" in arguments
    try:
        args = _parser(arguments).parse_args(arguments)
        _set_up_log(args)
        return int(args.run(args))
    except SystemExit as stop:  # argparse exits by itself: 0 after --help, 2 on wrong usage
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader went away, as in `edge profiles | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except errors.EdgeError as error:
        if is_debugged:
            traceback.print_exc()
        _complain(str(error), error.hint)
        return EXIT_UNAVAILABLE if isinstance(error, _UNAVAILABLE) else EXIT_USAGE
    except Exception as error:
        if is_debugged:
            traceback.print_exc()
        _complain(
            f"{type(error).__name__}: {error}",
            "this is a defect of edge; run it again with --debug and report what it prints",
        )
        return EXIT_DEFECT


def _set_up_log(args: argparse.Namespace) -> None:
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    if args.is_daemon and not args.debug:  # its log says what was done to it
        logging.getLogger("edge").setLevel(logging.INFO)


def _complain(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


class _Command(argparse.ArgumentParser):
    """Takes flags also between one bundle or host and the next, as users type them."""

    _is_inner = False

    def parse_known_args(  # type: ignore[override]  # of its overloads, that which is called
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        has_commands = any(one.nargs == argparse.PARSER for one in self._get_positional_actions())
        if has_commands or self._is_inner:
            return super().parse_known_args(args, namespace)
        self._is_inner = True  # it is what the other calls twice, for flags and for the rest
        # Up to Python 3.12 it takes its own usage for a template, so that "10%" breaks.
        own, self.usage = self.usage, self.format_usage()[len("usage: ") :].replace("%", "%%")
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.usage = own
            self._is_inner = False


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edge", description="Inference at the edge, measured.")
    parser.add_argument("--version", action="version", version=f"edge {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Command
    )
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
